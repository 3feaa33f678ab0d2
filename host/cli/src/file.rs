//! Reads the files that operators name, so that none of them makes a command wait for ever or read without end. Interprets nothing.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::exit::{Exit, Failure};

/// Reads a file of at most `max` bytes. A larger one is not read, and what is no file is not opened.
pub(crate) fn read_bounded(path: &Path, max: u64, name: &str) -> Result<Vec<u8>, Failure> {
    read_with_metadata(path, max, name).map(|(bytes, _)| bytes)
}

/// As [`read_bounded`], with what the system says of the very file that was read.
pub(crate) fn read_with_metadata(path: &Path, max: u64, name: &str) -> Result<(Vec<u8>, Metadata), Failure> {
    let cannot =
        |error: io::Error| Failure::new(Exit::Failed, format!("{name} cannot be read")).because(Some(&error));
    let too_large = || Failure::failed(format!("{name} has over {max} bytes"));
    // Looked at before it is opened, because opening alone sets some devices going; and again afterwards, because another may
    // stand in its place by then.
    only_a_file(&std::fs::metadata(path).map_err(cannot)?, name)?;
    let file = open_without_waiting(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    only_a_file(&meta, name)?;
    if meta.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile, and files of /proc say that they are empty.
    file.take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > max {
        return Err(too_large());
    }
    Ok((bytes, meta))
}

/// Opens to read, also a pipe that nobody writes to. Links are followed: operators keep manifests behind them.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
}

/// Who runs this, for the audit log: the number by which the system knows them, and the name that they go by.
pub(crate) fn who() -> String {
    let number = rustix::process::getuid().as_raw();
    match std::env::var("USER") {
        Ok(name) if !name.is_empty() => format!("uid {number} ({name})"),
        Ok(_) | Err(_) => format!("uid {number}"),
    }
}

fn only_a_file(meta: &Metadata, name: &str) -> Result<(), Failure> {
    if meta.is_file() {
        return Ok(());
    }
    let (kind, help) = kind(meta.file_type());
    Err(Failure::failed(format!("{name} is {kind}; expected a file")).help(help))
}

fn kind(kind: FileType) -> (&'static str, &'static str) {
    let copy = "write what comes from it to a file, and name that";
    if kind.is_dir() {
        ("a folder", "name a file in it")
    } else if kind.is_fifo() {
        ("a pipe", copy)
    } else if kind.is_socket() {
        ("a socket", copy)
    } else {
        ("a device", copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_only_up_to_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_bounded(&path, 5, "it").unwrap(), b"12345");
        assert_eq!(
            read_bounded(&path, 4, "it").unwrap_err().message,
            "it has over 4 bytes"
        );
        // As large as a disk, and not read.
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(1 << 40))
            .unwrap();
        assert_eq!(
            read_bounded(&path, 4, "it").unwrap_err().message,
            "it has over 4 bytes"
        );
        // Says that it is empty, and is not.
        assert!(
            !read_bounded(Path::new("/proc/self/status"), 1 << 20, "it")
                .unwrap()
                .is_empty()
        );
        assert!(read_bounded(Path::new("/proc/self/status"), 4, "it").is_err());

        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (folder.path(), "it is a folder; expected a file"),
            (Path::new("/dev/zero"), "it is a device; expected a file"),
            (&socket, "it is a socket; expected a file"),
        ] {
            assert_eq!(read_bounded(path, 4, "it").unwrap_err().message, what);
        }
    }
}
