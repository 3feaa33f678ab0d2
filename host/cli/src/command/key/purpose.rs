//! What a key is for, from arguments and in words. Which options belong to which profile is decided here; their bounds are the profile's.

use std::collections::BTreeSet;

use claviger_core::name::TokenType;
use claviger_core::profile::proof::MAX_LIFETIME;
use claviger_core::profile::{AssertionType, Profile};

use crate::args::{ProfileKind, Purpose};
use crate::exit::{Exit, Failure};

/// Where GitHub's API is, for whoever has no GitHub of their own.
const GITHUB_API: &str = "https://api.github.com";
/// What a token may live if nothing was said.
const DEFAULT_TTL: u32 = 600;

/// Each option that belongs to some profiles: which, and whether it was given.
fn options(args: &Purpose) -> [(&'static str, &'static [ProfileKind], bool); 15] {
    use ProfileKind::{ClientAssertion, Git, GithubApp, HttpSignature, Jws, Labeled, Mac, SshAuth, Sshsig};
    [
        ("--namespace", &[Sshsig], !args.namespace.is_empty()),
        ("--issuer", &[Jws], args.issuer.is_some()),
        ("--audience", &[Jws, ClientAssertion], !args.audience.is_empty()),
        ("--typ", &[Jws, ClientAssertion], args.typ.is_some()),
        ("--max-ttl", &[Jws], args.max_ttl.is_some()),
        ("--label", &[Labeled, Mac], args.label.is_some()),
        ("--tag", &[HttpSignature], args.tag.is_some()),
        ("--max-lifetime", &[HttpSignature], args.max_lifetime.is_some()),
        ("--client-id", &[ClientAssertion], args.client_id.is_some()),
        ("--app", &[GithubApp], args.app.is_some()),
        ("--api", &[GithubApp], args.api.is_some()),
        ("--mail", &[Git], !args.mail.is_empty()),
        ("--tag-name", &[Git], !args.tag_name.is_empty()),
        ("--user", &[SshAuth], !args.user.is_empty()),
        ("--host-key", &[SshAuth], !args.host_key.is_empty()),
    ]
}

/// The name of a kind of profile on the command line.
const fn kind_name(kind: ProfileKind) -> &'static str {
    match kind {
        ProfileKind::Sshsig => "sshsig",
        ProfileKind::Jws => "jws",
        ProfileKind::Labeled => "labeled",
        ProfileKind::HttpSignature => "http-signature",
        ProfileKind::Dpop => "dpop",
        ProfileKind::ClientAssertion => "client-assertion",
        ProfileKind::GithubApp => "github-app",
        ProfileKind::Mtls => "mtls",
        ProfileKind::Git => "git",
        ProfileKind::SshAuth => "ssh-auth",
        ProfileKind::Attest => "attest",
        ProfileKind::Seal => "seal",
        ProfileKind::Mac => "mac",
    }
}

/// The profile that the arguments ask for.
pub(super) fn profile(args: &Purpose) -> Result<Profile, Failure> {
    let kind = kind_name(args.profile);
    let foreign = options(args)
        .into_iter()
        .find(|(_, of, given)| *given && !of.contains(&args.profile));
    if let Some((option, of, _)) = foreign {
        let of: Vec<_> = of
            .iter()
            .map(|kind| format!("`--profile {}`", kind_name(*kind)))
            .collect();
        return Err(Failure::usage(format!(
            "`{option}` belongs to {}, not to `--profile {kind}`",
            of.join(" and ")
        )));
    }
    let missing = |example: &str| Failure::usage(format!("`--profile {kind}` needs {example}"));
    let profile = match args.profile {
        ProfileKind::Sshsig if args.namespace.is_empty() => {
            return Err(missing("at least one `--namespace`, such as `--namespace file`"));
        }
        ProfileKind::Sshsig => Profile::Sshsig {
            namespaces: args.namespace.iter().cloned().collect(),
        },
        ProfileKind::Jws => {
            let audiences: BTreeSet<_> = args.audience.iter().cloned().collect();
            if audiences.is_empty() {
                return Err(missing(
                    "at least one `--audience`, such as `--audience https://api.example`",
                ));
            }
            let issuer = args
                .issuer
                .clone()
                .ok_or_else(|| missing("`--issuer`, such as `--issuer https://example`"))?;
            let typ = match args.typ.clone() {
                Some(typ) => typ,
                None => "JWT".parse().map_err(|error| Failure::of(Exit::Failed, &error))?,
            };
            Profile::Jws {
                issuer,
                typ,
                audiences,
                max_ttl: args.max_ttl.unwrap_or(DEFAULT_TTL),
            }
        }
        ProfileKind::Labeled => Profile::Labeled {
            label: args
                .label
                .clone()
                .ok_or_else(|| missing("`--label`, such as `--label build-attestation`"))?,
        },
        ProfileKind::HttpSignature => Profile::HttpSignature {
            tag: args.tag.clone(),
            max_lifetime: args.max_lifetime.unwrap_or(MAX_LIFETIME),
        },
        ProfileKind::Dpop => Profile::Dpop {},
        ProfileKind::ClientAssertion => {
            let [audience] = args.audience.as_slice() else {
                return Err(missing(
                    "one `--audience`, such as `--audience https://login.example/token`",
                ));
            };
            Profile::ClientAssertion {
                client_id: args
                    .client_id
                    .clone()
                    .ok_or_else(|| missing("`--client-id`, as the server knows us"))?,
                audience: audience.clone(),
                typ: match args.typ.as_ref().map(TokenType::as_str) {
                    None | Some("client-authentication+jwt") => AssertionType::Explicit,
                    Some("JWT") => AssertionType::Plain,
                    Some(_) => {
                        return Err(missing(
                            "no `--typ`, or `--typ JWT` for a server that takes nothing else",
                        ));
                    }
                },
            }
        }
        ProfileKind::GithubApp => Profile::GithubApp {
            app: args
                .app
                .clone()
                .ok_or_else(|| missing("`--app`, the app's client id, such as `--app Iv23liAbCdEf`"))?,
            origin: match args.api.clone() {
                Some(api) => api,
                None => GITHUB_API
                    .parse()
                    .map_err(|error| Failure::of(Exit::Failed, &error))?,
            },
        },
        ProfileKind::Mtls => Profile::Mtls {},
        ProfileKind::Attest => Profile::Attest {},
        ProfileKind::Seal => Profile::Seal {},
        ProfileKind::Mac => Profile::Mac {
            label: args
                .label
                .clone()
                .ok_or_else(|| missing("`--label`, such as `--label acme/tickets`"))?,
        },
        ProfileKind::Git if args.mail.is_empty() => {
            return Err(missing(
                "at least one `--mail`, such as `--mail bot@acme.example`",
            ));
        }
        ProfileKind::Git => Profile::Git {
            mails: args.mail.iter().cloned().collect(),
            tags: args.tag_name.iter().cloned().collect(),
        },
        ProfileKind::SshAuth if args.user.is_empty() => {
            return Err(missing("at least one `--user`, such as `--user deploy`"));
        }
        ProfileKind::SshAuth => Profile::SshAuth {
            users: args.user.iter().cloned().collect(),
            host_keys: args.host_key.iter().copied().collect(),
        },
    };
    profile
        .validate_new()
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(profile)
}

/// A profile in words.
pub(super) fn words(profile: &Profile) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match profile {
        Profile::Sshsig { namespaces } => {
            format!(
                "sshsig for {}",
                list(namespaces.iter().map(ToString::to_string).collect())
            )
        }
        Profile::Jws {
            issuer,
            typ,
            audiences,
            max_ttl,
        } => format!(
            "jws of type {typ} by {issuer} for {}, of at most {max_ttl} s",
            list(audiences.iter().map(ToString::to_string).collect())
        ),
        Profile::Labeled { label } => format!("labeled {label}"),
        Profile::HttpSignature { tag, max_lifetime } => {
            let tag = tag.as_ref().map(|tag| format!(" tagged {tag}"));
            format!(
                "http-signature{}, for at most {max_lifetime} s",
                tag.unwrap_or_default()
            )
        }
        Profile::Dpop {} => "dpop".to_owned(),
        Profile::ClientAssertion {
            client_id,
            audience,
            typ,
        } => format!(
            "client-assertion of type {} by {client_id} for {audience}",
            typ.as_str()
        ),
        Profile::GithubApp { app, origin } => format!("github-app {app} at {origin}"),
        Profile::Mtls {} => "mtls".to_owned(),
        Profile::Git { mails, tags } => {
            let mails = list(mails.iter().map(ToString::to_string).collect());
            let tags = list(tags.iter().map(ToString::to_string).collect());
            if tags.is_empty() {
                format!("git commits by {mails}")
            } else {
                format!("git commits, and tags {tags}, by {mails}")
            }
        }
        Profile::SshAuth { users, host_keys } => {
            let users = list(users.iter().map(ToString::to_string).collect());
            let hosts = list(host_keys.iter().map(ToString::to_string).collect());
            if hosts.is_empty() {
                format!("ssh-auth as {users} at the servers that a grant names")
            } else {
                format!("ssh-auth as {users} at {hosts}")
            }
        }
        Profile::Attest {} => "attest".to_owned(),
        Profile::Seal {} => "seal".to_owned(),
        Profile::Mac { label } => format!("mac {label}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command, Key};

    fn parse(arguments: &str) -> Result<Profile, Failure> {
        let all = format!("claviger key create x {arguments}");
        match Arguments::try_parse_from(all.split(' ')).unwrap().command {
            Command::Key(Key::Create(args)) => profile(&args.purpose),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_profile_takes_its_own_options_and_no_others() {
        assert!(parse("--profile sshsig --namespace mail --namespace file").is_ok());
        assert!(parse("--profile labeled --label build").is_ok());
        for good in [
            "--profile http-signature",
            "--profile http-signature --tag web-bot-auth --max-lifetime 60s",
            "--profile dpop",
            "--profile client-assertion --client-id a --audience https://as.example/token",
            "--profile client-assertion --client-id a --audience https://as.example/token --typ JWT",
            "--profile github-app --app 1234",
            "--profile github-app --app 1234 --api https://github.acme.example",
            "--profile mtls",
            "--profile git --mail *@acme.example",
            "--profile git --mail a@b --mail c@d --tag-name v* --tag-name release/*",
            "--profile seal",
            "--profile mac --label acme/tickets",
            "--profile ssh-auth --user deploy",
            "--profile ssh-auth --user deploy --host-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        assert_eq!(
            parse("--profile jws --issuer a --audience b").unwrap(),
            Profile::Jws {
                issuer: "a".parse().unwrap(),
                typ: "JWT".parse().unwrap(),
                audiences: BTreeSet::from(["b".parse().unwrap()]),
                max_ttl: 600,
            }
        );
        for bad in [
            "--profile sshsig",
            "--profile jws --issuer a",
            "--profile jws --audience a",
            "--profile labeled",
            "--profile sshsig --namespace git",
            "--profile sshsig --namespace file --namespace git",
            "--profile sshsig --namespace file --label x",
            "--profile labeled --label x --max-ttl 5s",
            "--profile jws --issuer a --audience b --max-ttl 25h",
            "--profile jws --issuer a --audience b --max-ttl 0s",
            "--profile jws --issuer a --audience b --typ dpop+jwt",
            "--profile http-signature --max-lifetime 6min",
            "--profile http-signature --namespace git",
            "--profile dpop --audience https://as.example/token",
            "--profile client-assertion --client-id a",
            "--profile client-assertion --audience https://as.example/token",
            "--profile client-assertion --client-id a --audience as.example",
            "--profile client-assertion --client-id a --audience https://as.example/token --typ at+jwt",
            "--profile github-app",
            "--profile mtls --tag x",
            "--profile mac",
            "--profile seal --label x",
            "--profile seal --namespace git",
            "--profile git",
            "--profile git --tag-name v*",
            "--profile git --mail a@b --namespace git",
            "--profile ssh-auth",
            "--profile ssh-auth --user deploy --mail a@b",
            "--profile sshsig --namespace file --host-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        ] {
            let failure = parse(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
        }
    }
}
