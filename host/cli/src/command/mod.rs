//! The commands, one a file.

pub(crate) mod agent;
pub(crate) mod approvals;
pub(crate) mod attest;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod grant;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod keyring;
pub(crate) mod life;
pub(crate) mod new;
pub(crate) mod panic;
pub(crate) mod pin;
pub(crate) mod rotator;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod ssh_agent;
pub(crate) mod status;

pub(crate) use backup::NewFile;
