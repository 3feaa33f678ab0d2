//! What libtss2 needs of swtpm's control channel, and nothing else: it asks for locality 0 when it connects. Not a control channel:
//! over one, any user of this machine could read the software TPM's state, with every loaded key in clear, and stop it.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// CMD_SET_LOCALITY of locality 0 (`swtpm_ioctls(3)`), which is the one that swtpm is in.
const SET_LOCALITY_0: [u8; 5] = [0, 0, 0, 5, 0];

/// TPM_SUCCESS.
const DONE: [u8; 4] = [0; 4];

/// libtss2 writes at once what it has to say; another one that does not keeps it from being served for no longer than this.
const PATIENCE: Duration = Duration::from_millis(250);

/// Answers on a port of its own until it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    port: u16,
    over: Arc<AtomicBool>,
    // Invariant: taken by `drop` only.
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(crate) fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&over);
        let thread = thread::Builder::new()
            .name("claviger-swtpm".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if theirs.load(Ordering::Acquire) {
                        break;
                    }
                    match stream {
                        // Who asks for something else, or goes away, is not answered.
                        Ok(stream) => drop(answer(stream)),
                        // Such as no free descriptors: not to spin until there are.
                        Err(_) => thread::sleep(PATIENCE),
                    }
                }
            })?;
        Ok(Self {
            port,
            over,
            thread: Some(thread),
        })
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut command = [0; SET_LOCALITY_0.len()];
    stream.read_exact(&mut command)?;
    if command == SET_LOCALITY_0 {
        stream.write_all(&DONE)?;
    }
    Ok(())
}

impl Drop for Control {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the thread, which waits for a connection. If that fails it has one already, or is not waited for.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().ok();
        }
    }
}
