//! Behaviour through real guests. One binary, so that the engine is linked once.

mod crash;
mod device;
mod hygiene;
mod interop;
mod runtime_credentials;
mod runtime_limits;
mod runtime_loading;
mod runtime_world;
