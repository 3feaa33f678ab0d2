//! One grant of an agent behind an SSH agent socket: what `ssh` asks of it becomes a request to the broker, as an agent's would be. Decides
//! nothing: the profile `ssh-auth` reads what is signed. Holds no key, and takes none.
//!
//! Whoever connects to the socket uses the grant in the agent's name. The socket is the owner's alone, and who is asked by another user is
//! deaf; which of the owner's programs asks is not known.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claviger_core::profile::ssh_auth::Login;
use claviger_core::{Broker, GrantAlias, InstanceId, Outcome, Refusal, Request};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::operator::is_ours;

#[cfg(test)]
mod tests;
mod wire;

pub use wire::MAX_MESSAGE;

use wire::{Answer, Asked, Binding};

/// So many peers are attended to at once; more wait in the kernel's queue. A client has one connection for each login under way.
pub const MAX_CONNECTIONS: usize = 16;
/// A peer that asks nothing for so long is let go. A person may type a server's other password meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);
/// What stopped the socket from taking a connection, such as too many open files, is likely over after this.
const PAUSE: Duration = Duration::from_millis(100);
/// The profile whose keys are served.
const PROFILE: &str = "ssh-auth";

/// Why a grant is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshAgentError {
    /// The agent may not use it.
    #[error("the grant cannot be used: {0}; `claviger audit tail` shows why")]
    Refused(Refusal),
    /// Its key is for something else.
    #[error("the grant's key has profile `{0}`; expected one with profile `ssh-auth`")]
    Profile(String),
    /// Something has the socket's name.
    #[error("`{}` is there already, and another process may serve it; remove it, or choose another name", .0.display())]
    InUse(PathBuf),
    /// The system failed.
    #[error("cannot serve `{}`", .path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A grant, as `ssh` asks for it.
#[derive(Debug)]
pub struct SshAgent {
    broker: Arc<dyn Broker>,
    who: InstanceId,
    grant: GrantAlias,
}

/// A socket that is there until this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    // The device and inode of what was made here: another in its place is not removed.
    file: (u64, u64),
}

impl SshAgent {
    /// The grant of a running instance.
    ///
    /// # Errors
    /// When the instance may not use it, or its key is for something else.
    pub async fn new(
        broker: Arc<dyn Broker>,
        who: InstanceId,
        grant: GrantAlias,
    ) -> Result<Self, SshAgentError> {
        let agent = Self { broker, who, grant };
        let opened = Request::OpenSigner {
            alias: agent.grant.to_string(),
        };
        agent
            .broker
            .perform(who, opened)
            .await
            .map_err(SshAgentError::Refused)?;
        let described = Request::DescribeSigner {
            grant: agent.grant.clone(),
        };
        match agent
            .broker
            .perform(who, described)
            .await
            .map_err(SshAgentError::Refused)?
        {
            Outcome::Signer(key) if key.profile == PROFILE => Ok(agent),
            Outcome::Signer(key) => Err(SshAgentError::Profile(key.profile)),
            _ => Err(SshAgentError::Refused(Refusal::Unavailable)),
        }
    }

    /// Serves the socket until the future is dropped. What a peer has under way then is abandoned, which is logged.
    pub async fn serve(self, socket: &Socket) {
        let agent = Arc::new(self);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Ended with the future.
        let mut peers = tokio::task::JoinSet::new();
        // A slot before the connection: who waits, waits in the kernel's queue.
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match socket.listener.accept().await {
                Ok((stream, _)) => {
                    peers.spawn(Arc::clone(&agent).attend(stream, slot));
                }
                Err(_) => sleep(PAUSE).await,
            }
            while peers.try_join_next().is_some() {}
        }
    }

    async fn attend(self: Arc<Self>, mut stream: UnixStream, _slot: OwnedSemaphorePermit) {
        if !stream.peer_cred().is_ok_and(|peer| is_ours(peer.uid())) {
            return;
        }
        let mut bound = Bound::default();
        while let Ok(Some(message)) = timeout(PATIENCE, wire::next(&mut stream)).await {
            let answer = self.answer(&mut bound, &message).await;
            if !matches!(
                timeout(PATIENCE, wire::answer(&mut stream, &answer)).await,
                Ok(Some(()))
            ) {
                return;
            }
        }
    }

    /// What one peer is answered, by whom its connection is bound to.
    async fn answer(&self, bound: &mut Bound, message: &[u8]) -> Answer {
        match Asked::read(message) {
            Asked::Identities => {
                Answer::Identities(self.key().await.map(|blob| (blob, self.grant.to_string())))
            }
            Asked::Bind(binding) => bound.bind(binding),
            Asked::Sign { key, data, flags } => self.sign(bound, &key, data, flags).await,
            Asked::Other => Answer::Failure,
        }
    }

    /// The key that signs now, as SSH writes it; none if it cannot be used.
    async fn key(&self) -> Option<Vec<u8>> {
        let described = Request::DescribeSigner {
            grant: self.grant.clone(),
        };
        match self.broker.perform(self.who, described).await {
            Ok(Outcome::Signer(key)) => ssh_key::PublicKey::from_openssh(&key.public_key)
                .ok()?
                .to_bytes()
                .ok(),
            Ok(_) | Err(_) => None,
        }
    }

    async fn sign(&self, bound: &Bound, key: &[u8], data: Vec<u8>, flags: u32) -> Answer {
        // Flags choose among the hashes of RSA; there are no such keys here.
        if flags != 0 || self.key().await.as_deref() != Some(key) {
            return Answer::Failure;
        }
        let Binding {
            host_key,
            session,
            signature,
            ..
        } = bound.word();
        let login = Login {
            request: data,
            host_key,
            session,
            signature,
        };
        let request = Request::Sign {
            grant: self.grant.clone(),
            content: login.to_content(),
        };
        match self.broker.perform(self.who, request).await {
            Ok(Outcome::Signed { signature }) => Answer::Signature(signature),
            Ok(_) | Err(_) => Answer::Failure,
        }
    }
}

/// To whom a connection speaks.
#[derive(Debug, Default)]
enum Bound {
    /// Nobody said.
    #[default]
    Nobody,
    /// To this server.
    To(Binding),
    /// To more than one, or through one that it was forwarded to: to whom else is not known.
    Lost,
}

impl Bound {
    fn bind(&mut self, binding: Binding) -> Answer {
        match self {
            Self::Nobody if !binding.forwarding => {
                *self = Self::To(binding);
                Answer::Success
            }
            Self::To(same) if *same == binding => Answer::Success,
            Self::Nobody | Self::To(_) | Self::Lost => {
                *self = Self::Lost;
                Answer::Failure
            }
        }
    }

    /// What the server said. Nothing of nobody, which the profile refuses, so that the refusal is on the log.
    fn word(&self) -> Binding {
        match self {
            Self::To(binding) => binding.clone(),
            Self::Nobody | Self::Lost => Binding::default(),
        }
    }
}

impl Socket {
    /// Makes the socket, for its owner alone. One of the same name that nobody serves any more is replaced. Needs a runtime with I/O.
    ///
    /// # Errors
    /// When something else has its name, or it cannot be made.
    pub async fn bind(path: &Path) -> Result<Self, SshAgentError> {
        let failed = |source| SshAgentError::Socket {
            path: path.to_owned(),
            source,
        };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(meta) => {
                let dead = meta.file_type().is_socket()
                    && is_ours(meta.uid())
                    && matches!(UnixStream::connect(path).await, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
                if !dead {
                    return Err(SshAgentError::InUse(path.to_owned()));
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // A dead socket that stays is replaced by the next one.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
