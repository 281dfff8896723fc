// Named errors, those of the Python package: each says what was seen and what is wanted.

export class SpecTokenizerError extends Error {
  /** @param {string} message @param {ErrorOptions} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A model that cannot be loaded, or is not the one that the data needs. */
export class ModelError extends SpecTokenizerError {}

/** Audio that cannot be used: not finite, absurdly loud, an impossible rate. */
export class AudioError extends SpecTokenizerError {}

/** Codes that do not fit the model or the format: wrong shape or range. */
export class CodesError extends SpecTokenizerError {}

/** A bitrate that the model does not have. */
export class BitrateError extends SpecTokenizerError {}

/** A stream used out of order, for instance pushed after flush. */
export class StreamError extends SpecTokenizerError {}

/** A `.stk` that cannot be read; the message says what is wrong and at which byte. */
export class FormatError extends SpecTokenizerError {}

/** The file ends before it should. */
export class TruncatedError extends FormatError {}

/** A checksum does not match or a field has an impossible value. */
export class CorruptedError extends FormatError {}

/** The file needs a newer reader, or a part of the format that this one does not have. */
export class VersionError extends FormatError {}
