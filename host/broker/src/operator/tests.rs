//! Commands and the socket that carries them.
