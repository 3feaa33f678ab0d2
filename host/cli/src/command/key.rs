//! `claviger key …`: makes keys and shows their public side. Nothing here can show a private key.

use std::collections::BTreeSet;

use claviger_broker::LocalBroker;
use claviger_broker::keyring::{KeyRecord, KeyState};
use claviger_broker::local::KeyCreation;
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::name::TokenType;
use claviger_core::profile::proof::MAX_LIFETIME;
use claviger_core::profile::{AssertionType, Profile};
use claviger_core::{Algorithm, KeyName, PublicKey};

use crate::args::{Key, KeyCreate, ProfileKind, PublicFormat, Revocation};
use crate::command::attest;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;
use crate::output::{columns, shown};
use crate::progress;
use crate::unlock::with_broker;

/// Where GitHub's API is, for whoever has no GitHub of their own.
const GITHUB_API: &str = "https://api.github.com";
/// What a token may live if nothing was said.
const DEFAULT_TTL: u32 = 600;

pub(crate) fn run(cx: &Context, args: Key) -> Result<Exit, Failure> {
    match args {
        Key::Create(args) => create(cx, args),
        Key::List => list(cx),
        Key::Show { name } => show(cx, &name),
        Key::Disable { name } => change(cx, &name, KeyState::Disabled),
        Key::Enable { name } => change(cx, &name, KeyState::Active),
        Key::Revoke { name } => change(cx, &name, KeyState::Revoked),
        Key::Attest(args) => attest::run(cx, &args),
        Key::Csr { name, subject } => csr(cx, &name, &subject),
        Key::Public { name, format } => public(cx, &name, format),
    }
}

fn create(cx: &Context, args: KeyCreate) -> Result<Exit, Failure> {
    let profile = profile(&args)?;
    let KeyCreate {
        name,
        algorithm,
        custody,
        revocation,
        ..
    } = args;
    if let (Some(own), Some(_)) = (profile.symmetric(), algorithm) {
        let kind = profile.kind();
        return Err(Failure::usage(format!(
            "`--algorithm` does not go with `--profile {kind}`: such keys are {own}"
        )));
    }
    let record = with_broker(cx, async |broker| {
        if let Some(algorithm) = profile.symmetric() {
            if revocation == Revocation::Hardware {
                let kind = profile.kind();
                return Err(Failure::usage(format!(
                    "`--revocation hardware` does not go with `--profile {kind}`: it is for keys that sign"
                )));
            }
            let custody = custody.map_or_else(|| broker.default_custody(algorithm), CustodyKind::from);
            let making = broker.create_symmetric_key(name, profile, custody);
            return Ok(progress::during(&cx.out, "making the key", making).await?);
        }
        let algorithm =
            algorithm.unwrap_or_else(|| default_algorithm(broker, &profile, custody.map(CustodyKind::from)));
        let custody = custody.map_or_else(|| broker.default_custody(algorithm), CustodyKind::from);
        let creation = KeyCreation {
            name,
            profile,
            algorithm,
            custody,
        };
        Ok(match revocation {
            Revocation::Keyring => {
                progress::during(&cx.out, "making the key", broker.create_key(creation)).await?
            }
            Revocation::Hardware => {
                let making = broker.create_key_revocable_by_hardware(creation);
                progress::during(&cx.out, "making the key", making).await?
            }
        })
    })?;
    cx.out.value(&to_json(&record)?, |_| describe(&record));
    Ok(Exit::Done)
}

fn change(cx: &Context, name: &KeyName, state: KeyState) -> Result<Exit, Failure> {
    let record = with_broker(cx, async |broker| Ok(broker.set_key_state(name, state).await?))?;
    cx.out.value(&to_json(&record)?, |_| describe(&record));
    Ok(Exit::Done)
}

/// The only one that the profile has, or the one that it prefers; else the one that the TPM signs with itself, if it is there; else the
/// one that is fastest.
fn default_algorithm(broker: &LocalBroker, profile: &Profile, custody: Option<CustodyKind>) -> Algorithm {
    if let Some(first) = profile.algorithms().first()
        && *first != Algorithm::Ed25519
        && custody != Some(CustodyKind::TpmSealed)
    {
        return *first;
    }
    let custody = custody.unwrap_or_else(|| broker.default_custody(Algorithm::P256));
    if custody == CustodyKind::Tpm {
        Algorithm::P256
    } else {
        Algorithm::Ed25519
    }
}

/// Each option that belongs to some profiles: which, and whether it was given.
fn options(args: &KeyCreate) -> [(&'static str, &'static [ProfileKind], bool); 11] {
    use ProfileKind::{ClientAssertion, GithubApp, HttpSignature, Jws, Labeled, Mac, Sshsig};
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
        ProfileKind::Attest => "attest",
        ProfileKind::Seal => "seal",
        ProfileKind::Mac => "mac",
    }
}

fn profile(args: &KeyCreate) -> Result<Profile, Failure> {
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
            return Err(missing("at least one `--namespace`, such as `--namespace git`"));
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
    };
    profile
        .validate()
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(profile)
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    if cx.out.is_json() {
        for record in &records {
            cx.out.value(&to_json(record)?, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if records.is_empty() {
        cx.out
            .note("the keyring has no keys; `claviger key create NAME --profile …` makes one");
        return Ok(Exit::Done);
    }
    let heading = [
        "NAME",
        "VERSION",
        "STATE",
        "PROFILE",
        "ALGORITHM",
        "CUSTODY",
        "ASSURANCE",
        "KEY ID",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        vec![
            record.key.name.to_string(),
            record.key.version.to_string(),
            record.standing().to_owned(),
            record.profile.kind().to_owned(),
            record.algorithm.to_string(),
            record.custody.to_string(),
            record.assurance.to_string(),
            record.key_id(),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn show(cx: &Context, name: &KeyName) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    let record = keys::find(&records, name)?;
    cx.out.value(&to_json(record)?, |_| describe(record));
    Ok(Exit::Done)
}

fn public(cx: &Context, name: &KeyName, format: PublicFormat) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    let record = keys::find(&records, name)?;
    let key = public_half(record)?;
    let text = match format {
        PublicFormat::Openssh => key.to_openssh(name.as_str()),
        PublicFormat::Pem => key.to_pem(),
        PublicFormat::Jwk => Ok(key.to_jwk().to_string()),
    }
    .map_err(|error| Failure::of(Exit::Failed, &error))?;
    let json = match format {
        PublicFormat::Jwk => key.to_jwk(),
        PublicFormat::Openssh => serde_json::json!({ "format": "openssh", "public": text }),
        PublicFormat::Pem => serde_json::json!({ "format": "pem", "public": text }),
    };
    cx.out.value(&json, |_| text.clone());
    Ok(Exit::Done)
}

/// The public half of a key that has one.
fn public_half(record: &KeyRecord) -> Result<&PublicKey, Failure> {
    record.public().ok_or_else(|| {
        Failure::failed(format!(
            "key `{}` is symmetric and has no public half",
            record.key
        ))
    })
}

fn csr(cx: &Context, name: &KeyName, subject: &str) -> Result<Exit, Failure> {
    let pem = with_broker(cx, async |broker| {
        Ok(broker.certificate_request(name, subject).await?)
    })?;
    cx.out
        .value(&serde_json::json!({ "format": "pem", "request": pem }), |_| {
            pem.clone()
        });
    Ok(Exit::Done)
}

fn to_json(record: &KeyRecord) -> Result<serde_json::Value, Failure> {
    let public = record
        .public()
        .map(|key| key.to_openssh(record.key.name.as_str()))
        .transpose();
    Ok(serde_json::json!({
        "name": record.key.name,
        "version": record.key.version,
        "state": record.standing(),
        "profile": record.profile,
        "algorithm": record.algorithm,
        "custody": record.custody,
        "assurance": record.assurance,
        "revocation": refused_by(record),
        "key_id": record.key_id(),
        "public_key": public.map_err(|error| Failure::of(Exit::Failed, &error))?,
        "created": record.created,
        "updated": record.updated,
    }))
}

/// Who refuses the key once it is revoked.
const fn refused_by(record: &KeyRecord) -> &'static str {
    if record.hardware.is_some() {
        "hardware"
    } else {
        "keyring"
    }
}

fn describe(record: &KeyRecord) -> String {
    let public = record.public().map_or_else(
        || "none: the key is symmetric".to_owned(),
        |key| {
            key.to_openssh(record.key.name.as_str())
                .unwrap_or_else(|error| error.to_string())
        },
    );
    let rows = [
        ("key", record.key.to_string()),
        ("state", record.standing().to_owned()),
        ("profile", purpose(&record.profile)),
        ("algorithm", record.algorithm.to_string()),
        ("custody", custody(record.custody, record.assurance)),
        ("revocation", refused_by(record).to_owned()),
        ("key id", record.key_id()),
        ("public key", public),
        ("created", record.created.to_string()),
    ];
    shown(&columns(&rows.map(|(name, value)| vec![name.to_owned(), value])))
}

/// A profile in words.
fn purpose(profile: &Profile) -> String {
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
        Profile::Attest {} => "attest".to_owned(),
        Profile::Seal {} => "seal".to_owned(),
        Profile::Mac { label } => format!("mac {label}"),
    }
}

fn custody(custody: CustodyKind, assurance: Assurance) -> String {
    format!("{custody}, assurance {assurance}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn parse(arguments: &str) -> Result<Profile, Failure> {
        let all = format!("claviger key create x {arguments}");
        match Arguments::try_parse_from(all.split(' ')).unwrap().command {
            Command::Key(Key::Create(args)) => profile(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_profile_takes_its_own_options_and_no_others() {
        assert!(parse("--profile sshsig --namespace git --namespace file").is_ok());
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
            "--profile sshsig --namespace git --label x",
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
        ] {
            let failure = parse(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
        }
    }
}
