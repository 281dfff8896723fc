"""Live: microphone and speaker, calls over RTP, a server for many. No torch; optional libraries are imported where they are used."""
