//! The passphrase from a file, a file descriptor or a terminal without echo; never from an argument, the environment or a pipe that
//! was not named. Does not judge it: the sealer does.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claviger_core::Secret;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::file::open_without_waiting;
use crate::interruption::{Interruption, Signal};
use crate::output::Output;

/// A passphrase has at most this many bytes: longer than anybody types, short enough for a buffer on the stack.
const MAX: usize = 1024;

/// How often a signal is looked for while somebody types.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Where passphrases come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Descriptor(u32),
    /// Only if stdin and stderr are one.
    Terminal,
}

impl Source {
    /// The passphrase of an existing keyring. Needs a runtime around it, for a signal while it is typed.
    pub(crate) fn read(&self, out: &Output) -> Result<Secret, Failure> {
        match self {
            Self::Terminal => secret(&mut ask("Passphrase of the keyring: ")?),
            Self::File(path) => from_file(path, out),
            Self::Descriptor(number) => from_descriptor(*number, out),
        }
    }

    /// The file in which the passphrase stays, for whoever can read it: none where it is typed or comes through a pipe.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let path = match self {
            Self::Terminal => return None,
            Self::File(path) => path.clone(),
            Self::Descriptor(number) => PathBuf::from(format!("/proc/self/fd/{number}")),
        };
        // What cannot be looked at may be a file.
        let stays = std::fs::metadata(&path).map_or(true, |meta| meta.is_file());
        stays.then_some(path)
    }

    /// The passphrase of a new keyring: asked for twice where it is typed.
    pub(crate) fn read_new(&self, out: &Output) -> Result<Secret, Failure> {
        match self {
            Self::Terminal => {
                let mut first = ask("New passphrase of the keyring: ")?;
                let second = ask("The same again: ")?;
                if *first != *second {
                    return Err(Failure::failed(
                        "the two passphrases are not the same; nothing was made",
                    ));
                }
                secret(&mut first)
            }
            Self::File(path) => from_file(path, out),
            Self::Descriptor(number) => from_descriptor(*number, out),
        }
    }
}

fn from_file(path: &Path, out: &Output) -> Result<Secret, Failure> {
    let cannot = |error: io::Error| {
        Failure::failed(format!("the passphrase file `{}` cannot be read", path.display()))
            .because(Some(&error))
    };
    // It may be a pipe, such as `<(pass show keyring)`: that is waited for.
    let file = File::open(path).map_err(cannot)?;
    warn_if_shared(&file, path, "the passphrase file", out).map_err(cannot)?;
    secret(&mut read_line(file, MAX).map_err(cannot)?)
}

/// The descriptor itself stays open: only unsafe code can close what it has as a number. A pipe is empty afterwards; of a file, whatever
/// is started here could read the passphrase again, and that includes what compiles components.
fn from_descriptor(number: u32, out: &Output) -> Result<Secret, Failure> {
    let cannot = |error: io::Error| {
        Failure::failed(format!(
            "the file descriptor {number} with the passphrase cannot be read"
        ))
        .because(Some(&error))
    };
    let file = open_descriptor(number).map_err(cannot)?;
    // Programs get a stdin, stdout and stderr of their own.
    if number > 2 && file.metadata().map_err(cannot)?.is_file() {
        out.warn(&format!(
            "programs that this one starts inherit file descriptor {number} and can read the passphrase again; hand over a pipe, \
             or name the file with `--passphrase-file`"
        ));
    }
    secret(&mut read_line(file, MAX).map_err(cannot)?)
}

/// What a file descriptor leads to, to be read from its beginning or, of a pipe, from where it is.
pub(crate) fn open_descriptor(number: u32) -> io::Result<File> {
    // Opened through /proc, a descriptor needs no unsafe code; a pipe's other end stays the same.
    let file = open_without_waiting(Path::new(&format!("/proc/self/fd/{number}")))?;
    // Whoever writes into the pipe may still be at it.
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Warns of a file that others than its owner can read.
pub(crate) fn warn_if_shared(file: &File, path: &Path, what: &str, out: &Output) -> io::Result<()> {
    let meta = file.metadata()?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        out.warn(&format!(
            "others can read {what}; run `chmod 600 {}`",
            path.display()
        ));
    }
    Ok(())
}

/// Everything up to `max` bytes and some more that tell of too much, without one line end at its end. Buffers are wiped.
pub(crate) fn read_line(mut input: impl Read, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; max.saturating_add(2)]);
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

fn secret(typed: &mut [u8]) -> Result<Secret, Failure> {
    if typed.is_empty() {
        return Err(Failure::failed("the passphrase is empty"));
    }
    if typed.len() > MAX {
        return Err(Failure::failed(format!("a passphrase has at most {MAX} bytes")));
    }
    Secret::take(typed).map_err(|error| Failure::of(Exit::Failed, &error))
}

fn not_a_terminal() -> Failure {
    Failure::failed("the keyring needs its passphrase, and stdin is not a terminal to ask on")
        .help("give it with `--passphrase-file FILE` or `--passphrase-fd N`")
}

/// Asks on the terminal without echo. The terminal is as it was afterwards, also when Ctrl-C is typed.
fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || !io::stderr().is_terminal() {
        return Err(not_a_terminal());
    }
    let cannot =
        |error: io::Error| Failure::failed("the passphrase cannot be asked for").because(Some(&error));
    // From here on no signal ends the process while the terminal is silent.
    let mut interruption = Interruption::new()?;
    let silence = Silence::start().map_err(cannot)?;
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")
        .and_then(|()| stderr.flush())
        .map_err(cannot)?;
    let mut typed = Typed::default();
    let ended = loop {
        if let Some(signal) = interruption.arrived() {
            break Ended::Interrupted(signal);
        }
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(cannot(error.into())),
        }
        let mut byte = Zeroizing::new([0_u8; 1]);
        // Not through `Stdin`: its buffer would keep the passphrase.
        match rustix::io::read(&stdin, &mut *byte) {
            Ok(1) => {}
            Ok(_) => break Ended::Closed,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(cannot(error.into())),
        }
        if let Some(ended) = byte.first().and_then(|byte| typed.take(*byte)) {
            break ended;
        }
    };
    drop(silence);
    drop(writeln!(stderr));
    match ended {
        Ended::Entered => Ok(typed.0),
        Ended::Closed => Err(Failure::failed("no passphrase was given; nothing was done")),
        Ended::Interrupted(signal) => Err(signal.stopped()),
    }
}

/// What was typed up to now.
#[derive(Default)]
struct Typed(Zeroizing<Vec<u8>>);

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Entered,
    Closed,
    Interrupted(Signal),
}

impl Typed {
    fn take(&mut self, byte: u8) -> Option<Ended> {
        match byte {
            b'\r' | b'\n' => return Some(Ended::Entered),
            0x03 | 0x1c => return Some(Ended::Interrupted(Signal::Interrupt)),
            0x04 if self.0.is_empty() => return Some(Ended::Closed),
            0x04 => return Some(Ended::Entered),
            // Backspace takes a whole character of UTF-8.
            0x08 | 0x7f => while self.0.pop().is_some_and(|last| last & 0xc0 == 0x80) {},
            0x15 => self.0.clear(),
            // Reserved once, so that no outgrown copy is left unwiped.
            _ if self.0.len() <= MAX => {
                let room = (MAX + 1).saturating_sub(self.0.len());
                self.0.reserve_exact(room);
                self.0.push(byte);
            }
            _ => {}
        }
        None
    }
}

/// The terminal without echo, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn start() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        // Byte by byte and without signals: Ctrl-C comes as a byte, so that the echo is back before the process ends.
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        tcsetattr(io::stdin(), OptionalActions::Drain, &self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_left_out_and_no_more() {
        for (file, passphrase) in [
            (&b"correct horse"[..], &b"correct horse"[..]),
            (b"correct horse\n", b"correct horse"),
            (b"correct horse\r\n", b"correct horse"),
            (b"correct horse\n\n", b"correct horse\n"),
            (b" x ", b" x "),
        ] {
            assert_eq!(&**read_line(file, MAX).unwrap(), passphrase);
        }
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        assert_eq!(read_line(io::repeat(b'x'), MAX).unwrap().len(), MAX + 2);
        assert!(secret(&mut [b'x'; MAX + 1]).is_err());
        assert!(secret(&mut []).is_err());
        assert!(secret(&mut [b'x'; MAX]).is_ok());
    }

    #[test]
    fn typing_can_be_corrected_and_given_up() {
        let mut typed = Typed::default();
        for byte in "aé\u{7f}b\u{15}cde\u{8}".bytes() {
            assert_eq!(typed.take(byte), None);
        }
        assert_eq!(typed.0.as_slice(), b"cd");
        assert_eq!(typed.take(b'\n'), Some(Ended::Entered));
        assert_eq!(typed.take(0x03), Some(Ended::Interrupted(Signal::Interrupt)));
        assert_eq!(Typed::default().take(0x04), Some(Ended::Closed));
        let mut long = Typed::default();
        for _ in 0..2 * MAX {
            long.take(b'x');
        }
        assert_eq!(long.0.len(), MAX + 1);
    }

    #[test]
    fn without_a_terminal_nobody_is_asked() {
        if !io::stdin().is_terminal() {
            let failure = ask("?").unwrap_err();
            assert!(failure.help.iter().any(|help| help.contains("--passphrase-file")));
        }
    }
}
