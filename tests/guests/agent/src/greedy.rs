//! What takes more of the host than is due: files, listings, streams, and lists that are really there. Reads what it is told to; signs
//! nothing that was not granted.
#![expect(unsafe_code, reason = "an attacker does not keep to safe Rust")]

use claviger_sdk::Error;
use claviger_sdk::bindings::claviger::credentials::signing;

/// Creates so many empty files.
pub(crate) fn make(folder: &str, count: usize) -> std::io::Result<String> {
    for number in 0..count {
        std::fs::File::create(format!("{folder}/{number}"))?;
    }
    Ok(format!("made {count}"))
}

/// How many entries a folder has.
pub(crate) fn count(folder: &str) -> std::io::Result<String> {
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        names.insert(entry?.file_name());
    }
    Ok(format!("counted {}", names.len()))
}

/// What each entry of a folder is.
pub(crate) fn kinds(folder: &str) -> std::io::Result<String> {
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = match entry.file_type()? {
            kind if kind.is_dir() => "folder",
            kind if kind.is_symlink() => "link",
            kind if kind.is_file() => "file",
            _ => "other",
        };
        kinds.push(format!("{}:{kind}", entry.file_name().display()));
    }
    kinds.sort();
    Ok(kinds.join(","))
}

/// Has one file open so many times at once.
pub(crate) fn hold_files(path: &str, count: usize) -> std::io::Result<String> {
    let mut open = Vec::new();
    for _ in 0..count {
        open.push(std::fs::File::open(path)?);
    }
    Ok(format!("held {}", open.len()))
}

/// Lists one folder so many times at once, each listing begun.
pub(crate) fn hold_listings(folder: &str, count: usize) -> std::io::Result<String> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut listing = std::fs::read_dir(folder)?;
        listing.next().transpose()?;
        open.push(listing);
    }
    Ok(format!("held {}", open.len()))
}

/// Opens one file of the first folder so many times and keeps only streams of it, so many each: every one holds the file open,
/// though its descriptor is gone.
pub(crate) fn hold_file_streams(name: &str, files: usize, each: usize) -> Result<String, String> {
    use wasi::wasi::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
    let folders = wasi::wasi::filesystem::preopens::get_directories();
    let (folder, _) = folders.first().ok_or("no folder")?;
    let (mut read, mut written) = (Vec::new(), Vec::new());
    let said = |error| format!("{error:?}");
    for _ in 0..files {
        let how = DescriptorFlags::READ | DescriptorFlags::WRITE;
        let file = folder
            .open_at(PathFlags::empty(), name, OpenFlags::empty(), how)
            .map_err(said)?;
        for number in 0..each {
            match number % 3 {
                0 => read.push(file.read_via_stream(0).map_err(said)?),
                1 => written.push(file.write_via_stream(0).map_err(said)?),
                _ => written.push(file.append_via_stream().map_err(said)?),
            }
        }
    }
    Ok(format!("held {}", read.len() + written.len()))
}

/// Has so many streams to stdout at once.
pub(crate) fn hold_streams(count: usize) -> String {
    let open: Vec<_> = (0..count)
        .map(|_| wasi::wasi::cli::stdout::get_stdout())
        .collect();
    format!("held {}", open.len())
}

/// Writes so many bytes to stdout in one call, without asking how many are allowed.
pub(crate) fn write_at_once(bytes: usize) -> String {
    let written = wasi::wasi::cli::stdout::get_stdout().write(&vec![b'o'; bytes]);
    format!("wrote {}", written.is_ok())
}

/// Signs so many bytes, which are all there: memory that was just grown, and that nobody touched.
pub(crate) fn sign_grown(alias: &str, bytes: usize) -> Result<String, Error> {
    const PAGE: usize = 65_536;
    let signer = signing::Signer::open(alias).map_err(claviger_sdk::Refusal::from)?;
    let before = core::arch::wasm32::memory_grow(0, bytes.div_ceil(PAGE));
    if before == usize::MAX {
        return Err(Error::Other("there is no such memory".to_owned()));
    }
    // SAFETY: the pages were just grown, are zero, and are known to nobody else.
    let grown =
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(before * PAGE), bytes) };
    let signature = signer.sign(grown).map_err(claviger_sdk::Refusal::from)?;
    Ok(format!("signed {}", signature.len()))
}

mod wasi {
    claviger_sdk::wit_bindgen::generate!({
        inline: "
            package claviger:test-greedy;
            world streams {
                import wasi:cli/stdout@0.2.1;
                import wasi:filesystem/preopens@0.2.1;
            }
            package wasi:io@0.2.1 {
                interface error { resource error; }
                interface streams {
                    use error.{error};
                    variant stream-error { last-operation-failed(error), closed }
                    resource input-stream;
                    resource output-stream { write: func(contents: list<u8>) -> result<_, stream-error>; }
                }
            }
            package wasi:filesystem@0.2.1 {
                interface preopens {
                    use types.{descriptor};
                    get-directories: func() -> list<tuple<descriptor, string>>;
                }
                interface types {
                    use wasi:io/streams@0.2.1.{input-stream, output-stream};
                    type filesize = u64;
                    flags descriptor-flags {
                        read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
                        mutate-directory
                    }
                    flags path-flags { symlink-follow }
                    flags open-flags { create, directory, exclusive, truncate }
                    enum error-code {
                        access, would-block, already, bad-descriptor, busy, deadlock, quota, exist,
                        file-too-large, illegal-byte-sequence, in-progress, interrupted, invalid, io,
                        is-directory, loop, too-many-links, message-size, name-too-long, no-device,
                        no-entry, no-lock, insufficient-memory, insufficient-space, not-directory,
                        not-empty, not-recoverable, unsupported, no-tty, no-such-device, overflow,
                        not-permitted, pipe, read-only, invalid-seek, text-file-busy, cross-device
                    }
                    resource descriptor {
                        read-via-stream: func(offset: filesize) -> result<input-stream, error-code>;
                        write-via-stream: func(offset: filesize) -> result<output-stream, error-code>;
                        append-via-stream: func() -> result<output-stream, error-code>;
                        open-at: func(path-flags: path-flags, path: string, open-flags: open-flags,
                            %flags: descriptor-flags) -> result<descriptor, error-code>;
                    }
                }
            }
            package wasi:cli@0.2.1 {
                interface stdout {
                    use wasi:io/streams@0.2.1.{output-stream};
                    get-stdout: func() -> output-stream;
                }
            }
        ",
        runtime_path: "::claviger_sdk::wit_bindgen::rt",
        generate_all,
    });
}
