//! What a new key is for, as arguments. Whether they go together is decided by `command::key`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use claviger_core::http::Origin;
use claviger_core::name::{Label, Namespace, Principal, SshUser, TokenType};
use claviger_core::profile::git::{MailPattern, TagPattern};
use claviger_core::profile::ssh_auth::HostKeyId;

use claviger_broker::import::KeyFormat;
use claviger_broker::keyring::published::SignerName;
use claviger_core::KeyName;
use claviger_core::key::KeySpec;

use super::{Custody, SecretValue, whole_seconds};

/// `claviger key import`.
#[derive(Debug, Args)]
pub(crate) struct KeyImport {
    /// Its name: 1 to 64 of a-z, 0-9 and -
    pub(crate) name: KeyName,
    #[command(flatten)]
    pub(crate) purpose: Purpose,
    /// In which form the private key is
    #[arg(long, value_enum, default_value_t = ImportFormat::Auto)]
    pub(crate) format: ImportFormat,
    /// Where it lives [default: where there is a TPM, `tpm` for P-256 and RSA, `tpm-sealed` for Ed25519; `software` with a passphrase]
    #[arg(long, value_enum)]
    pub(crate) custody: Option<Custody>,
    /// The private key is encrypted: read its own passphrase from this file; one newline at its end is left out
    #[arg(long, value_name = "FILE", conflicts_with = "key_passphrase_fd")]
    pub(crate) key_passphrase_file: Option<PathBuf>,
    /// The private key is encrypted: read its own passphrase from this open file descriptor
    #[arg(long, value_name = "N")]
    pub(crate) key_passphrase_fd: Option<u32>,
    /// Take a key that others may have: whoever made it, its file, its backups. It is marked as imported for good
    #[arg(long)]
    pub(crate) accept_imported: bool,
    #[command(flatten)]
    pub(crate) value: SecretValue,
}

/// `claviger key public`.
#[derive(Debug, Args)]
pub(crate) struct KeyPublic {
    /// The key, for the version in use; or `NAME@vN` for any, retired ones included. jwks and allowed-signers: the key for all its versions
    pub(crate) key: KeySpec,
    /// In which format
    #[arg(long, value_enum, default_value_t = PublicFormat::Openssh)]
    pub(crate) format: PublicFormat,
    /// allowed-signers: whose signatures these are, a name or a mail address; may be given several times [default: the mail addresses of a
    /// key with profile `git`]
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Vec<SignerName>,
}

/// Formats of public keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublicFormat {
    /// One line, as in `authorized_keys`
    Openssh,
    /// SubjectPublicKeyInfo (`openssl pkey -pubin`)
    Pem,
    /// JSON Web Key (RFC 7517)
    Jwk,
    /// JSON Web Key Set (RFC 7517) of every version that is verified now: the active and the retiring ones
    Jwks,
    /// Lines for `ssh-keygen -Y verify` and git's `gpg.ssh.allowedSignersFile`, of every version, with its namespaces and times
    AllowedSigners,
}

/// Forms of private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Whichever of the others it is
    Auto,
    /// PEM with `BEGIN PRIVATE KEY` (`openssl genpkey`)
    Pkcs8,
    /// PEM with `BEGIN EC PRIVATE KEY` (`openssl ecparam -genkey`)
    Sec1,
    /// PEM with `BEGIN RSA PRIVATE KEY` (`openssl genrsa -traditional`)
    Pkcs1,
    /// PEM with `BEGIN OPENSSH PRIVATE KEY` (`ssh-keygen`)
    Openssh,
    /// JSON Web Key (RFC 7517)
    Jwk,
    /// PEM with `BEGIN TSS2 PRIVATE KEY`: a key that this very TPM wrapped for another program (tpm2-openssl, `tpm2_encodeobject`)
    Tss2,
}

impl From<ImportFormat> for Option<KeyFormat> {
    fn from(format: ImportFormat) -> Self {
        match format {
            ImportFormat::Auto => None,
            ImportFormat::Pkcs8 => Some(KeyFormat::Pkcs8),
            ImportFormat::Sec1 => Some(KeyFormat::Sec1),
            ImportFormat::Pkcs1 => Some(KeyFormat::Pkcs1),
            ImportFormat::Openssh => Some(KeyFormat::Openssh),
            ImportFormat::Jwk => Some(KeyFormat::Jwk),
            ImportFormat::Tss2 => Some(KeyFormat::Tss2),
        }
    }
}

/// A profile and its parameters.
#[derive(Debug, Args)]
pub(crate) struct Purpose {
    /// What its signatures are for
    #[arg(long, value_enum)]
    pub(crate) profile: ProfileKind,
    /// sshsig: a namespace that it may sign under, such as `file`; may be given several times
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) namespace: Vec<Namespace>,
    /// jws: the `iss` of every token
    #[arg(long)]
    pub(crate) issuer: Option<Principal>,
    /// jws: an audience that it may sign for; may be given several times; client-assertion: the URL of the token endpoint or the issuer
    #[arg(long)]
    pub(crate) audience: Vec<Principal>,
    /// jws: the `typ` of every token [default: JWT]; client-assertion: `JWT`, for a server that takes nothing else [default:
    /// client-authentication+jwt]
    #[arg(long)]
    pub(crate) typ: Option<TokenType>,
    /// jws: the longest life of a token [default: 10 min]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    pub(crate) max_ttl: Option<u32>,
    /// labeled and mac: what the signatures or MACs are for
    #[arg(long)]
    pub(crate) label: Option<Label>,
    /// http-signature: the `tag` of every signature [default: none]
    #[arg(long)]
    pub(crate) tag: Option<Label>,
    /// http-signature: the longest life of a signature [default: 5 min, which is the most]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    pub(crate) max_lifetime: Option<u32>,
    /// client-assertion: the client's id
    #[arg(long)]
    pub(crate) client_id: Option<Principal>,
    /// github-app: the app's client id, or its number
    #[arg(long)]
    pub(crate) app: Option<Principal>,
    /// github-app: the API, the only place that its tokens are sent to [default: https://api.github.com]
    #[arg(long)]
    pub(crate) api: Option<Origin>,
    /// git: a mail address of authors, committers and taggers, `*` for any characters but `@`, such as `bot@acme.example`; may be given
    /// several times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) mail: Vec<MailPattern>,
    /// git: the name of a tag that it may sign, `*` for any characters, such as `v*`; may be given several times [default: none, commits
    /// alone]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) tag_name: Vec<TagPattern>,
    /// ssh-auth: a user on the servers that it may log in as; may be given several times
    #[arg(long)]
    pub(crate) user: Vec<SshUser>,
    /// ssh-auth: the fingerprint of a server's host key, as `ssh-keygen -lf HOST_KEY.pub` prints it; may be given several times [default:
    /// each grant names them]
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) host_key: Vec<HostKeyId>,
}

/// The kinds of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileKind {
    /// SSH signatures over files (`ssh-keygen -Y verify`)
    Sshsig,
    /// Commits and tags of git, which are read before they are signed (`git verify-commit`)
    Git,
    /// Logins over SSH, through `claviger ssh-agent`
    SshAuth,
    /// Signed JSON tokens (RFC 7515)
    Jws,
    /// Signatures over opaque bytes under a label
    Labeled,
    /// Requests: HTTP message signatures (RFC 9421)
    HttpSignature,
    /// Requests: proofs that a token is ours (RFC 9449)
    Dpop,
    /// Requests: who we are to one authorization server (RFC 7523, `private_key_jwt`)
    ClientAssertion,
    /// Requests: who we are to GitHub, as an app; RSA, so in a TPM only
    GithubApp,
    /// Requests: client certificates (TLS 1.3); `claviger key csr` asks for the certificate
    Mtls,
    /// Evidence of which agent runs on this machine; in a TPM only
    Attest,
    /// Boxes that only this keyring opens again; signs nothing
    Seal,
    /// MACs under a label; signs nothing
    Mac,
}
