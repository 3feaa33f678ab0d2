//! Behaviour through real guests. One binary, so that the engine is linked once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml allows these in tests; what tests share stands beside them"
)]

mod approvals;
mod cli_approvals;
mod cli_bound;
mod cli_components;
mod cli_control;
mod cli_files;
mod cli_keyring;
mod cli_keys;
mod cli_life;
mod cli_log;
mod cli_manifests;
mod cli_new;
mod cli_output;
mod cli_recovery;
mod cli_requests;
mod cli_scene;
mod cli_signals;
mod cli_standby;
mod cli_symmetric;
mod cli_tpm;
mod cli_webhook;
mod constraints;
mod constraints_symmetric;
mod crash;
mod crash_lives;
mod custody;
mod custody_symmetric;
mod device;
mod evidence;
mod hardware;
mod hardware_kinds;
mod hygiene;
mod hygiene_core;
mod hygiene_scene;
mod interop;
mod interop_proofs;
mod interop_requests;
mod interop_sigv4;
mod operating;
mod requests;
mod requests_scene;
mod requests_servers;
mod requests_stops;
mod rotators;
mod runtime_credentials;
mod runtime_folders;
mod runtime_http;
mod runtime_http_bodies;
mod runtime_limits;
mod runtime_loading;
mod runtime_symmetric;
mod runtime_world;
mod stops;
mod whole;
