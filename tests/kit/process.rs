//! A child process that tells its story line by line and is killed when the test is over. Not a shell: it runs one program.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A child that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts the command, with pipes.
    ///
    /// # Panics
    /// When it cannot be started: `install` is shown.
    #[must_use]
    pub fn start(command: &mut Command, install: &str) -> Self {
        let mut child = command
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; {install}"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                // The test may not want to hear more.
                drop(sender.send(String::from_utf8_lossy(&line).into_owned()));
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            drop(stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            child,
            stdin,
            lines,
            errors: Some(errors),
        }
    }

    /// The next line of its stdout; none at the end.
    ///
    /// # Panics
    /// When it hangs.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{:?} says nothing for {PATIENCE:?}", self.child),
        }
    }

    /// Skips lines up to one that starts like this, and returns what follows.
    ///
    /// # Panics
    /// When there is none.
    pub fn skip_to(&mut self, start: &str) -> String {
        loop {
            match self.line() {
                Some(line) => {
                    if let Some(rest) = line.strip_prefix(start) {
                        return rest.trim().to_owned();
                    }
                }
                None => panic!("it ended without `{start}`: {}", self.errors()),
            }
        }
    }

    /// Gives it bytes.
    ///
    /// # Panics
    /// When it does not take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stdin
            .as_mut()
            .expect("open")
            .write_all(bytes)
            .expect("it reads");
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL. What it said before can still be read.
    pub fn kill(&mut self) {
        // It may have ended.
        drop(self.child.kill());
    }

    /// How it ended, and after how long from now.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> (ExitStatus, Duration) {
        self.stdin = None;
        let start = Instant::now();
        // Its stdout ends with it.
        while self.line().is_some() {}
        (self.child.wait().expect("a child"), start.elapsed())
    }

    /// Everything on its stderr; waits for its end.
    pub fn errors(&mut self) -> String {
        self.errors
            .take()
            .map(|thread| thread.join().unwrap_or_default())
            .unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        drop(self.child.wait());
    }
}
