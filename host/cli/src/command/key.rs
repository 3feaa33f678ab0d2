//! `claviger key …`: makes keys and shows their public side. Nothing here can show a private key.

use std::collections::BTreeSet;

use claviger_broker::keyring::KeyRecord;
use claviger_broker::operator::Command as Order;
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::name::TokenType;
use claviger_core::profile::proof::MAX_LIFETIME;
use claviger_core::profile::{AssertionType, Profile};
use claviger_core::{KeyName, PublicKey};
use jiff::Timestamp;

use crate::args::{Key, KeyCreate, ProfileKind, PublicFormat};
use crate::command::{life, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;
use crate::operate::{self, order, text};
use crate::output::{columns, shown};
use crate::overview;

/// Where GitHub's API is, for whoever has no GitHub of their own.
const GITHUB_API: &str = "https://api.github.com";
/// What a token may live if nothing was said.
const DEFAULT_TTL: u32 = 600;

pub(crate) fn run(cx: &Context, args: Key) -> Result<Exit, Failure> {
    match args {
        Key::Create(args) => create(cx, args),
        Key::List => list(cx),
        Key::Show { name } => show(cx, &name),
        Key::Life(args) => life::key(cx, args),
        Key::Csr { name, subject } => csr(cx, name, subject),
        Key::Public { name, format } => public(cx, &name, format),
    }
}

fn create(cx: &Context, args: KeyCreate) -> Result<Exit, Failure> {
    let profile = profile(&args)?;
    let (plan, lock) = life::planned(&args.plan);
    let KeyCreate {
        name,
        algorithm,
        custody,
        ..
    } = args;
    let command = Order::CreateKey {
        name,
        profile,
        algorithm,
        custody: custody.map(CustodyKind::from),
        plan,
        locked: lock.is_some(),
    };
    made(cx, command)
}

/// Has it done, and shows what the keyring has then.
pub(crate) fn made(cx: &Context, command: Order) -> Result<Exit, Failure> {
    let reply = order(cx, command, None)?;
    for record in operate::keys(cx, reply)? {
        cx.out.value(&to_json(&record)?, |_| describe(&record));
    }
    Ok(Exit::Done)
}

/// Each option that belongs to some profiles: which, and whether it was given.
fn options(args: &KeyCreate) -> [(&'static str, &'static [ProfileKind], bool); 11] {
    use ProfileKind::{ClientAssertion, GithubApp, HttpSignature, Jws, Labeled, Sshsig};
    [
        ("--namespace", &[Sshsig], !args.namespace.is_empty()),
        ("--issuer", &[Jws], args.issuer.is_some()),
        ("--audience", &[Jws, ClientAssertion], !args.audience.is_empty()),
        ("--typ", &[Jws, ClientAssertion], args.typ.is_some()),
        ("--max-ttl", &[Jws], args.max_ttl.is_some()),
        ("--label", &[Labeled], args.label.is_some()),
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
    };
    profile
        .validate()
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(profile)
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let overview = overview::read(cx)?;
    if cx.out.is_json() {
        for record in &overview.keys {
            let tally = overview.key_tally(record);
            let mut json = to_json(record)?;
            if let Some(json) = json.as_object_mut() {
                json.extend([
                    ("uses".to_owned(), tally.uses.into()),
                    ("last_use".to_owned(), serde_json::json!(tally.last)),
                    (
                        "used_by".to_owned(),
                        serde_json::json!(overview.holders_of_key(record)),
                    ),
                ]);
            }
            cx.out.value(&json, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if overview.keys.is_empty() {
        cx.out
            .note("the keyring has no keys; `claviger key create NAME --profile …` makes one");
        return Ok(Exit::Done);
    }
    let heading = [
        "NAME",
        "VERSION",
        "STATE",
        "AGE",
        "PROFILE",
        "ALGORITHM",
        "CUSTODY",
        "ASSURANCE",
        "NEXT ROTATION",
        "LAST USE",
        "USED BY",
        "KEY ID",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(overview.keys.iter().map(|record| {
        vec![
            record.key.name.to_string(),
            record.key.version.to_string(),
            record.standing().to_owned(),
            overview.age(record.created),
            record.profile.kind().to_owned(),
            record.algorithm.to_string(),
            record.custody.to_string(),
            record.assurance.to_string(),
            overview.next_rotation(record),
            overview::minute(overview.key_tally(record).last),
            overview::holders(&overview.holders_of_key(record)),
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

fn csr(cx: &Context, name: KeyName, subject: String) -> Result<Exit, Failure> {
    let pem = text(order(cx, Order::RequestCertificate { name, subject }, None)?)?;
    cx.out
        .value(&serde_json::json!({ "format": "pem", "request": pem }), |_| {
            pem.clone()
        });
    Ok(Exit::Done)
}

pub(crate) fn to_json(record: &KeyRecord) -> Result<serde_json::Value, Failure> {
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
        "key_id": record.key_id(),
        "public_key": public.map_err(|error| Failure::of(Exit::Failed, &error))?,
        "created": record.created,
        "updated": record.updated,
        "source": record.source.as_str(),
        "rotate_every_seconds": record.plan.every.map(|every| every.as_secs()),
        "rotate_uses": record.plan.uses,
        "overlap_seconds": record.plan.overlap.as_secs(),
        "due": record.due(Timestamp::now()),
        "until": record.until,
        "deleted": record.deleted,
        "reason": record.reason,
        "purge_lock": record.locked,
    }))
}

pub(crate) fn describe(record: &KeyRecord) -> String {
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
        ("key id", record.key_id()),
        ("public key", public),
        ("created", record.created.to_string()),
    ];
    let more = [
        ("until", record.until.map(|until| until.to_string())),
        ("reason", record.reason.as_ref().map(ToString::to_string)),
        ("rotation", rotation(record)),
        (
            "purge",
            record.locked.then(|| "locked: at least 30 days".to_owned()),
        ),
    ];
    let rows = rows
        .into_iter()
        .chain(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let rows: Vec<_> = rows.map(|(name, value)| vec![name.to_owned(), value]).collect();
    shown(&columns(&rows))
}

/// A plan in words, if there is one.
fn rotation(record: &KeyRecord) -> Option<String> {
    let every = record
        .plan
        .every
        .map(|every| format!("every {}", secret::in_days(every)));
    let uses = record.plan.uses.map(|uses| format!("after {uses} uses"));
    let when: Vec<_> = every.into_iter().chain(uses).collect();
    (!when.is_empty()).then(|| {
        format!(
            "{}; the old version is good for {} more",
            when.join(" or "),
            secret::in_days(record.plan.overlap)
        )
    })
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
