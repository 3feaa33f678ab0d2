//! `claviger backup …`: makes, shows and restores backups. Nothing here can show a value.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claviger_broker::backup::{BackupError, Contents, Identity, Recipient};
use claviger_broker::keyring::KeyRecord;
use claviger_broker::local::{BackUpError, RestoreError, Restored, Restoring};
use claviger_broker::operator::{BackedUp, Command as Order, Reply};
use claviger_core::Secret;
use claviger_core::custody::CustodyKind;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::args::{Backup, BackupCreate, BackupRestore, BackupShow};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::file::{open_without_waiting, who};
use crate::operate::{order_into, unexpected};
use crate::output::{columns, shown};
use crate::progress;
use crate::unlock::{with_broker, with_unlocked};

/// An identity file has at most this many bytes: sixteen identities and what is said of them.
const MAX_IDENTITY_FILE: usize = 16 * 1024;

pub(crate) fn run(cx: &Context, command: Backup) -> Result<Exit, Failure> {
    match command {
        Backup::Create(args) => create(cx, &args),
        Backup::Show(args) => show(cx, &args),
        Backup::Restore(args) => restore(cx, &args),
        Backup::Keygen { out, tpm } => keygen(cx, &out, tpm),
    }
}

fn create(cx: &Context, args: &BackupCreate) -> Result<Exit, Failure> {
    let mut recipients = Vec::new();
    for text in &args.recipient {
        let recipient: Recipient = text.parse().map_err(|error| Failure::of(Exit::Usage, &error))?;
        recipients.push(recipient);
    }
    let new = NewFile::at(&args.out)?;
    let order = Order::BackUp {
        recipients,
        by: who(),
    };
    let Reply::BackedUp(made) = order_into(cx, order, new.file.as_file())? else {
        return Err(unexpected());
    };
    new.put()?;
    tell_made(cx, args, &made);
    Ok(Exit::Done)
}

fn tell_made(cx: &Context, args: &BackupCreate, made: &BackedUp) {
    let resident: Vec<_> = made
        .left_out
        .iter()
        .map(|left| serde_json::json!({ "key": left.key.to_string(), "key_id": left.key_id }))
        .collect();
    let keys: Vec<_> = made.keys.iter().map(ToString::to_string).collect();
    let json = serde_json::json!({
        "backup": args.out,
        "made": made.made,
        "recipients": args.recipient,
        "keys": keys,
        "secrets": made.secrets,
        "left_out": resident,
    });
    cx.out.value(&json, |_| {
        format!(
            "{} keys and {} secrets are in {}, which only the {} recipients open",
            keys.len(),
            made.secrets,
            args.out.display(),
            args.recipient.len()
        )
    });
    for left in &made.left_out {
        cx.out.warn(&format!(
            "key `{}` lives in the TPM and is not in the backup; without this TPM a new one has to take its place",
            left.key
        ));
    }
    if !cx.out.is_json() {
        cx.out.note(
            "whoever has this file and an identity of a recipient has the keys, whatever TPM sealed them: keep the two apart, and the \
             identity where no keyring is",
        );
    }
}

fn show(cx: &Context, args: &BackupShow) -> Result<Exit, Failure> {
    let identities = identities(cx, &args.identity_file)?;
    let mut file = open(&args.file)?;
    let contents = if identities.iter().any(Identity::is_in_tpm) {
        with_broker(cx, async |broker| {
            let reading = broker.read_backup(&mut file, &identities).await;
            reading.map_err(|error| in_file(&args.file, &error))
        })?
    } else {
        Contents::read(file, &identities).map_err(|error| in_file(&args.file, &error))?
    };
    let keys: Vec<_> = contents
        .keys
        .iter()
        .map(|(record, there)| {
            serde_json::json!({
                "key": record.key.to_string(), "state": record.state.as_str(), "profile": record.profile.kind(),
                "algorithm": record.algorithm, "custody": record.custody, "assurance": record.assurance,
                "key_id": record.key_id(), "material": there,
            })
        })
        .collect();
    let secrets: Vec<_> = contents
        .secrets
        .iter()
        .map(|(record, there)| {
            serde_json::json!({
                "secret": record.secret.to_string(), "state": record.state.as_str(), "kind": record.kind,
                "origin": record.origin, "assurance": record.assurance, "material": there,
            })
        })
        .collect();
    let json = serde_json::json!({
        "made": contents.made, "version": contents.version, "vkey": contents.vkey, "assurance": contents.assurance,
        "generation": contents.generation, "keys": keys, "secrets": secrets,
    });
    cx.out.value(&json, |_| describe(&contents));
    Ok(Exit::Done)
}

fn describe(contents: &Contents) -> String {
    let head = [
        ("made", format!("{:.0}", contents.made)),
        ("by", format!("claviger {}", contents.version)),
        ("assurance", contents.assurance.to_string()),
        ("vkey", contents.vkey.clone()),
    ];
    let mut text = columns(&head.map(|(name, value)| vec![name.to_owned(), value]));
    let heading = ["KIND", "NAME", "STATE", "FOR", "CUSTODY", "WAS", "IN THE BACKUP"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (record, there) in &contents.keys {
        rows.push(vec![
            "key".to_owned(),
            record.key.to_string(),
            record.state.to_string(),
            record.profile.kind().to_owned(),
            record.custody.to_string(),
            record.assurance.to_string(),
            is_there(*there, record.custody == CustodyKind::Tpm).to_owned(),
        ]);
    }
    for (record, there) in &contents.secrets {
        rows.push(vec![
            "secret".to_owned(),
            record.secret.to_string(),
            record.state.to_string(),
            format!("{} {}", record.kind, record.origin),
            "-".to_owned(),
            record.assurance.to_string(),
            is_there(*there, false).to_owned(),
        ]);
    }
    text.push('\n');
    text.push_str(&columns(&rows));
    shown(&text)
}

const fn is_there(there: bool, resident: bool) -> &'static str {
    match (there, resident) {
        (true, _) => "yes",
        (false, true) => "no: it lives in a TPM",
        (false, false) => "no: it is over",
    }
}

fn restore(cx: &Context, args: &BackupRestore) -> Result<Exit, Failure> {
    let identities = identities(cx, &args.identity_file)?;
    let mut file = open(&args.file)?;
    let by = who();
    let how = Restoring {
        identities: &identities,
        of: args.key.as_deref(),
        weaken: args.weaken,
        by: &by,
    };
    let restored = with_broker(cx, async |broker| {
        let restoring = broker.restore(&mut file, how);
        let restored = progress::during(&cx.out, "restoring the backup", restoring).await;
        let restored = restored.map_err(|error| not_restored(&args.file, error))?;
        let names: Vec<_> = broker.keyring().keys();
        let versions = |lost: &KeyRecord| names.iter().any(|record| record.key.name == lost.key.name);
        let anew: Vec<_> = restored
            .lost
            .iter()
            .map(|lost| anew(lost, versions(lost)))
            .collect();
        Ok((restored, anew))
    })?;
    tell_restored(cx, args, &restored.0, &restored.1);
    Ok(Exit::Done)
}

fn tell_restored(cx: &Context, args: &BackupRestore, restored: &Restored, anew: &[String]) {
    let keys: Vec<_> = restored
        .keys
        .iter()
        .map(|record| record.key.to_string())
        .collect();
    let secrets: Vec<_> = restored
        .secrets
        .iter()
        .map(|record| record.secret.to_string())
        .collect();
    let lost: Vec<_> = restored
        .lost
        .iter()
        .zip(anew)
        .map(|(record, command)| {
            serde_json::json!({
                "key": record.key.to_string(),
                "key_id": record.key_id(),
                "public": record.public().and_then(|key| key.to_openssh(record.key.name.as_str()).ok()),
                "anew": command,
            })
        })
        .collect();
    let json = serde_json::json!({
        "backup": args.file, "made": restored.made, "of": restored.of, "keys": keys, "secrets": secrets,
        "there": restored.there, "lost": lost,
    });
    cx.out.value(&json, |_| {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(restored.keys.iter().map(|record| {
            format!(
                "restored key {} ({}, {})",
                record.key, record.state, record.custody
            )
        }));
        lines.extend(
            restored
                .secrets
                .iter()
                .map(|record| format!("restored secret {} ({})", record.secret, record.state)),
        );
        if restored.there > 0 {
            lines.push(format!(
                "{} were there already, and were left as they are",
                restored.there
            ));
        }
        if restored.keys.is_empty() && restored.secrets.is_empty() {
            lines.push("nothing was changed".to_owned());
        }
        shown(&lines.join("\n"))
    });
    for (record, command) in restored.lost.iter().zip(anew) {
        cx.out.warn(&format!(
            "key `{}` lived in a TPM and is lost with it; make it anew with `{command}`, and give the new public key to whoever has the \
             old one (id {})",
            record.key,
            record.key_id()
        ));
    }
    if cx.out.is_json() {
        return;
    }
    if args.key.is_none() {
        cx.out.note(&format!(
            "whoever knows a recipient can make a backup; this one is signed by `{}`: compare it with what `init` printed on the old \
             machine, or say `--key VKEY`",
            restored.of
        ));
    }
    cx.out.note(&format!(
        "a backup knows nothing of what came after {:.0}: what was revoked or replaced since is not, here",
        restored.made
    ));
}

/// The command that makes a lost key's successor. Each parameter of a profile is an option of the same name.
fn anew(lost: &KeyRecord, has_versions: bool) -> String {
    let name = &lost.key.name;
    if has_versions {
        return format!("claviger key rotate {name}");
    }
    let mut command = format!("claviger key create {name} --profile {}", lost.profile.kind());
    let profile = serde_json::to_value(&lost.profile).unwrap_or_default();
    for (field, value) in profile.as_object().into_iter().flatten() {
        let option = match field.as_str() {
            "kind" => continue,
            "namespaces" => "namespace".to_owned(),
            "audiences" => "audience".to_owned(),
            "mails" => "mail".to_owned(),
            "tags" => "tag-name".to_owned(),
            "users" => "user".to_owned(),
            "host_keys" => "host-key".to_owned(),
            "origin" => "api".to_owned(),
            other => other.replace('_', "-"),
        };
        let values: Vec<&serde_json::Value> = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        for value in values {
            let text = match value {
                // Whoever made the backup chose it: a shell must take it as it is.
                serde_json::Value::String(text) if text.chars().all(is_plain) => text.clone(),
                serde_json::Value::String(text) => format!("'{}'", text.replace('\'', r"'\''")),
                // The numbers of profiles are seconds.
                serde_json::Value::Number(seconds) => format!("'{seconds} s'"),
                other => other.to_string(),
            };
            command.push_str(&format!(" --{option} {text}"));
        }
    }
    if let Some(algorithm) = lost.algorithm.signing() {
        command.push_str(&format!(" --algorithm {algorithm}"));
    }
    command
}

/// Whether a shell takes it as it is, wherever it stands.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '@' | ':' | ',' | '.' | '/' | '-' | '_' | '+')
}

fn keygen(cx: &Context, out: &Path, tpm: bool) -> Result<Exit, Failure> {
    let new = NewFile::at(out)?;
    let made = if tpm {
        with_unlocked(cx, None, async |_, unlocking| {
            let resident = unlocking.resident.as_ref();
            match resident.and_then(|custody| custody.agreement()) {
                Some(keys) => Ok(Identity::generate_in(keys).await),
                None => Err(Failure::failed("this keyring is on a passphrase, not on a TPM")
                    .help("make one on the machine that stands by, with `claviger init --custody tpm`, and do this there")),
            }
        })?
    } else {
        Identity::generate()
    };
    let (text, recipient) = made.map_err(|error| Failure::of(Exit::Failed, &error))?;
    let cannot = |error: io::Error| cannot_write(out, &error);
    let mut file = new.file.as_file();
    io::Write::write_all(&mut file, format!("# public key: {recipient}\n").as_bytes())
        .and_then(|()| io::Write::write_all(&mut file, text.expose()))
        .and_then(|()| io::Write::write_all(&mut file, b"\n"))
        .map_err(cannot)?;
    new.put()?;
    let json = serde_json::json!({ "identity_file": out, "recipient": recipient.to_string() });
    cx.out.value(&json, |_| recipient.to_string());
    if !cx.out.is_json() && tpm {
        cx.out.note(&format!(
            "backups for this recipient are opened by {} on this machine, with its TPM, and by nothing else: keep a second recipient for \
             the day on which this machine is lost, too",
            out.display()
        ));
    } else if !cx.out.is_json() {
        cx.out.note(&format!(
            "backups for this recipient are opened by {} and by nothing else: move it to where no keyring is, such as a stick in a safe, \
             and keep a copy",
            out.display()
        ));
    }
    Ok(Exit::Done)
}

/// A file that is made beside its place, and put there once it is whole. Until then it has another name, and goes with this.
pub(crate) struct NewFile {
    file: NamedTempFile,
    place: PathBuf,
}

impl NewFile {
    pub(crate) fn at(place: &Path) -> Result<Self, Failure> {
        if fs::symlink_metadata(place).is_ok() {
            return Err(taken(place));
        }
        let folder = match place.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        // Readable by its owner only, whatever the umask.
        let file = NamedTempFile::new_in(folder).map_err(|error| cannot_write(place, &error))?;
        Ok(Self {
            file,
            place: place.to_owned(),
        })
    }

    pub(crate) fn as_file(&self) -> &File {
        self.file.as_file()
    }

    pub(crate) fn put(self) -> Result<(), Failure> {
        let cannot = |error: &io::Error| cannot_write(&self.place, error);
        self.file.as_file().sync_all().map_err(|error| cannot(&error))?;
        let folder = self.file.path().parent().map(Path::to_owned);
        // Whatever came there meanwhile stays.
        self.file.persist_noclobber(&self.place).map_err(|error| {
            if error.error.kind() == io::ErrorKind::AlreadyExists {
                taken(&self.place)
            } else {
                cannot_write(&self.place, &error.error)
            }
        })?;
        if let Some(folder) = folder {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| cannot_write(&self.place, &error))?;
        }
        Ok(())
    }
}

fn taken(place: &Path) -> Failure {
    Failure::failed(format!(
        "there is a file `{}` already; it was left as it is, and nothing was written",
        place.display()
    ))
    .help("name another file")
}

fn cannot_write(place: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("`{}` cannot be written", place.display())).because(Some(error))
}

fn open(path: &Path) -> Result<File, Failure> {
    let cannot = |error: io::Error| {
        Failure::failed(format!("the backup `{}` cannot be read", path.display())).because(Some(&error))
    };
    let file = open_without_waiting(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(Failure::failed(format!(
            "the backup `{}` is not a plain file; it is read twice",
            path.display()
        )));
    }
    Ok(file)
}

fn identities(cx: &Context, path: &Path) -> Result<Vec<Identity>, Failure> {
    let cannot = |error: io::Error| {
        Failure::failed(format!("the identity file `{}` cannot be read", path.display()))
            .because(Some(&error))
    };
    // It may be a pipe, such as `<(age -d identity.age)`: that is waited for.
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        cx.out.warn(&format!(
            "others can read the identity file; run `chmod 600 {}`",
            path.display()
        ));
    }
    // Reserved once, so that no outgrown copy is left unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_IDENTITY_FILE.saturating_add(1)));
    let most = u64::try_from(MAX_IDENTITY_FILE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.is_empty() || bytes.len() > MAX_IDENTITY_FILE {
        return Err(Failure::failed(format!(
            "the identity file `{}` has {}; expected a line `AGE-SECRET-KEY-1…`",
            path.display(),
            if bytes.is_empty() {
                "nothing in it"
            } else {
                "over 16 KiB"
            }
        )));
    }
    let secret = Secret::take(&mut bytes).map_err(|error| Failure::of(Exit::Failed, &error))?;
    Identity::read_all(&secret).map_err(|error| {
        let mut failure = Failure::of(Exit::Failed, &error);
        failure.message = format!("the identity file `{}`: {}", path.display(), failure.message);
        failure.help("`claviger backup keygen` and `age-keygen` write such files")
    })
}

/// Why a backup cannot be read, with the file's name.
fn in_file(path: &Path, error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::Damaged { .. } | BackupError::Content { .. } | BackupError::Untrusted(_) => {
            Exit::Integrity
        }
        _ => Exit::Failed,
    };
    let mut failure = Failure::of(exit, error);
    failure.message = format!("the backup `{}`: {}", path.display(), failure.message);
    match error {
        BackupError::Damaged { .. } => {
            failure.help("nothing of it is used; take another copy, or an earlier backup")
        }
        BackupError::WrongIdentity { .. } => {
            failure.help("name the file with the identity of one of the recipients that it was made for")
        }
        BackupError::NoTpm => failure.help(
            "name the keyring on the machine where `claviger backup keygen --tpm` made it, with `--keyring`",
        ),
        _ => failure,
    }
}

fn not_restored(path: &Path, error: RestoreError) -> Failure {
    match error {
        RestoreError::Backup(error) => in_file(path, &error),
        RestoreError::Keyring(error) => error.into(),
        RestoreError::Audit(error) => error.into(),
        RestoreError::Weaker { .. } => Failure::of(Exit::Failed, &error).help(
            "`--weaken` restores it all the same, as hard as this keyring is; or make a keyring on a TPM with `claviger init --custody tpm`",
        ),
        RestoreError::Conflict(_) => Failure::of(Exit::Failed, &error)
            .help("make a keyring of its own for it: `claviger --keyring NEW init`, then restore with `--keyring NEW`"),
        other => Failure::of(Exit::Failed, &other),
    }
}

impl From<BackUpError> for Failure {
    fn from(error: BackUpError) -> Self {
        match error {
            BackUpError::Backup(error @ (BackupError::Recipients { .. } | BackupError::Recipient(_))) => {
                Self::of(Exit::Usage, &error)
            }
            BackUpError::Keyring(error) => error.into(),
            BackUpError::Audit(error) => error.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}
