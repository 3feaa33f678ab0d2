//! The age file around a backup, written and read by the crate `age` as a stream. Not what it says, and no format of its own: what is
//! here bounds what that crate takes and sees to what it leaves in memory.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor};
use claviger_core::stack::wipe_below;

use super::{BackupError, Identity, Recipient, STACK_WORDS};

/// What age encrypts at once, and keeps until it does (<https://c2sp.org/age>, Payload).
pub(super) const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
pub(super) const NONCE: usize = 16;

const VERSION: &[u8] = b"age-encryption.org/v1\n";
const ARMOUR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// A header's last line starts with this, and no other does.
const MAC: &[u8] = b"---";
/// With 32 bytes in base64.
const MAC_LINE: usize = 48;
/// Stanzas that are for recipients of ours.
const STANZAS: [&[u8]; 2] = [b"-> X25519 ", b"-> p256tag "];

/// A header has at most this many bytes: sixteen recipients take 2 KiB, and other programs may add stanzas of their own.
const MAX_HEADER: usize = 32 * 1024;
/// A header has at most this many lines: `age` parses all of it again for each, and tries each identity on each stanza.
const MAX_HEADER_LINES: usize = 256;

/// What [`Sealing::finish`] must be preceded by: `age` keeps one buffer of [`CHUNK`] bytes, reserved once and filled from its start over and
/// over, and gives it back without wiping it. So many bytes after the last secret one leave nothing of it.
pub(super) static PADDING: [u8; CHUNK] = [0; CHUNK];

/// A file that is being written. Dropping it leaves a file that does not open.
pub(super) struct Sealing<W: Write> {
    // Invariant: some until it is finished.
    out: Option<StreamWriter<Out<W>>>,
}

impl<W: Write> Sealing<W> {
    /// Writes the header for these recipients.
    pub(super) fn new(out: W, recipients: &[Recipient]) -> Result<Self, BackupError> {
        let header = Encryptor::with_recipients(recipients.iter().map(Recipient::as_age))
            .map_err(|_| BackupError::Encryption)
            .and_then(|header| {
                header
                    .wrap_output(Out {
                        inner: out,
                        failed: None,
                    })
                    .map_err(BackupError::writing)
            });
        wipe_below::<STACK_WORDS>();
        let mut sealing = Self { out: Some(header?) };
        sealing.write(&[])?;
        Ok(sealing)
    }

    /// Adds bytes. Up to [`CHUNK`] of them stand in memory that is not locked until as many follow.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let out = self.out.as_mut().ok_or(BackupError::Encryption)?;
        let written = out.write_all(bytes).and_then(|()| out.flush());
        wipe_below::<STACK_WORDS>();
        written.map_err(BackupError::writing)
    }

    /// Writes the last chunk. [`PADDING`] must have been written last.
    pub(super) fn finish(mut self) -> Result<W, BackupError> {
        let out = self.out.take().ok_or(BackupError::Encryption)?;
        let written = out.finish();
        wipe_below::<STACK_WORDS>();
        let out = written.map_err(BackupError::writing)?;
        match out.failed {
            None => Ok(out.inner),
            Some(error) => Err(BackupError::writing(error)),
        }
    }
}

/// What was given up leaves no more in memory than what was finished.
impl<W: Write> Drop for Sealing<W> {
    fn drop(&mut self) {
        if let Some(mut out) = self.out.take() {
            // `Out` never fails on writing, so that all of it comes to the buffer.
            drop(out.write_all(&PADDING));
        }
    }
}

/// Where the file goes. It takes whatever comes, so that what encrypts is never left with a chunk that it could not pass on, and says on
/// flushing what failed first.
struct Out<W> {
    inner: W,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.failed = self.inner.write_all(bytes).err();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// A file that is being read. `age` keeps a chunk of it at a time and wipes it.
pub(super) struct Opened<R: Read> {
    text: StreamReader<Chain<Cursor<Vec<u8>>, BufReader<R>>>,
    /// Where in the file the first chunk starts.
    start: u64,
    /// How much of the text was read.
    taken: u64,
}

impl<R: Read> Opened<R> {
    /// Reads the header and opens it with one of these identities.
    pub(super) fn new(source: R, identities: &[Identity]) -> Result<Self, BackupError> {
        let mut source = BufReader::new(source);
        let header = read_header(&mut source)?;
        let start = length(header.len().saturating_add(NONCE));
        let recipients = header
            .split(|byte| *byte == b'\n')
            .filter(|line| STANZAS.iter().any(|stanza| line.starts_with(stanza)))
            .count();
        let opened = Decryptor::new_buffered(Cursor::new(header).chain(source))
            .and_then(|file| file.decrypt(identities.iter().map(Identity::as_age)));
        wipe_below::<STACK_WORDS>();
        let text = opened.map_err(|error| match error {
            DecryptError::NoMatchingKeys => BackupError::WrongIdentity {
                identities: identities.len(),
                recipients,
            },
            DecryptError::InvalidMac => BackupError::damaged(0, "its header was changed: the MAC is another"),
            DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => BackupError::damaged(
                start.saturating_sub(length(NONCE)),
                "it ends where its content should start",
            ),
            DecryptError::Io(error) => BackupError::reading(error),
            // A file for a passphrase, too: it has no stanza that is for an identity.
            _ => BackupError::damaged(0, "its header cannot be read"),
        })?;
        Ok(Self {
            text,
            start,
            taken: 0,
        })
    }

    /// Fills these bytes, or says that the text ends before.
    pub(super) fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            match self.read_some(bytes)? {
                0 => {
                    return Err(BackupError::damaged(
                        self.chunk_at(),
                        "it ends before its last item",
                    ));
                }
                count => bytes = bytes.get_mut(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Whether the text is over; a byte of it that is not is gone.
    pub(super) fn is_over(&mut self) -> Result<bool, BackupError> {
        Ok(self.read_some(&mut [0])? == 0)
    }

    pub(super) fn read_some(&mut self, bytes: &mut [u8]) -> Result<usize, BackupError> {
        let read = self.text.read(bytes);
        wipe_below::<STACK_WORDS>();
        let count = read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                BackupError::damaged(self.chunk_at(), "what follows does not authenticate")
            }
            _ => BackupError::reading(error),
        })?;
        self.taken = self.taken.saturating_add(length(count));
        Ok(count)
    }

    /// Where in the file the chunk starts of which the next byte is.
    fn chunk_at(&self) -> u64 {
        let chunks = self.taken / length(CHUNK);
        self.start
            .saturating_add(chunks.saturating_mul(length(CHUNK.saturating_add(TAG))))
    }
}

/// A header, read no further than to its end. What it says is for `age` to read.
pub(super) fn read_header(source: &mut impl BufRead) -> Result<Vec<u8>, BackupError> {
    let mut header = Vec::new();
    let mut lines = 0_usize;
    loop {
        let start = header.len();
        // What does not start like a header is not read on for long.
        let room = match lines {
            0 => VERSION.len().max(ARMOUR.len()),
            _ => MAX_HEADER.saturating_sub(start),
        };
        source
            .by_ref()
            .take(length(room))
            .read_until(b'\n', &mut header)
            .map_err(BackupError::reading)?;
        let line = header.get(start..).unwrap_or_default();
        if lines == 0 && line.starts_with(ARMOUR) {
            return Err(BackupError::NotABackup(
                "it is an armoured age file, and backups are not; `age -d` and `age -r` make a plain one of it",
            ));
        }
        if lines == 0 && line != VERSION {
            return Err(BackupError::NotABackup(
                "expected a file that `claviger backup create` wrote, which starts with `age-encryption.org/v1`",
            ));
        }
        lines = lines.saturating_add(1);
        let at = length(start);
        if header.len() >= MAX_HEADER || lines > MAX_HEADER_LINES {
            return Err(BackupError::damaged(
                at,
                "its header has over 32 KiB or 256 lines",
            ));
        }
        if !line.ends_with(b"\n") {
            return Err(BackupError::damaged(at, "its header ends before its MAC"));
        }
        if line.starts_with(MAC) {
            // Of a shorter one `age` would look for the rest behind it.
            if line.len() != MAC_LINE {
                return Err(BackupError::damaged(at, "its header has a MAC that is none"));
            }
            return Ok(header);
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
