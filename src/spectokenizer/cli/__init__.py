"""spectok"""
import click
@click.group()
def main(): pass

@main.command()
@click.option("--config", required=True)
@click.option("--data", required=True)
@click.option("--out", required=True)
@click.option("--validation")
@click.option("--devices", default=1)
@click.option("--threads", type=int)
@click.option("--max-steps", type=int)
def train(config, data, out, validation, devices, threads, max_steps):
    from ..training.config import TrainConfig
    from ..training.train import run
    run(TrainConfig.load(config), data, out, validation, devices, threads, max_steps=max_steps)
