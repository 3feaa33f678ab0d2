//! Behaviour through real guests. One binary, so that the engine is linked once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml allows these in tests; what tests share stands beside them"
)]

mod cli_components;
mod cli_files;
mod cli_keyring;
mod cli_log;
mod cli_manifests;
mod cli_new;
mod cli_output;
mod cli_scene;
mod cli_signals;
mod crash;
mod device;
mod hygiene;
mod interop;
mod runtime_credentials;
mod runtime_limits;
mod runtime_loading;
mod runtime_world;
