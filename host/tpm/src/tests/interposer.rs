//! Somebody between us and the TPM, as a chip on its bus can be: sees each command, and changes answers.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use super::*;
use crate::TpmError;
use crate::actor::DEADLINE;

const READ_PUBLIC: u32 = 0x173;
const SIGN: u32 = 0x15D;
const START_AUTH_SESSION: u32 = 0x176;

/// Passes commands on to the software TPM of a rig. Lives as long as the test's process: its threads wait for connections.
struct Interposer {
    port: u16,
    seen: Arc<Mutex<Vec<u32>>>,
}

impl Interposer {
    /// `change` is given the command's code and may change the answer.
    fn before(rig: &Rig, change: fn(u32, &mut [u8])) -> Self {
        let pid = rig.tpm.swtpm_pid().unwrap();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let real: u16 = line
            .split_once("port=")
            .unwrap()
            .1
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let (data, control) = pair();
        let port = data.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in data.incoming() {
                let mut client = client.unwrap();
                // libtss2 makes a connection for each command, and one for none.
                let Some(command) = message(&mut client) else {
                    continue;
                };
                let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
                theirs.lock().unwrap().push(code);
                let Ok(mut tpm) = TcpStream::connect(("127.0.0.1", real)) else {
                    return;
                };
                tpm.write_all(&command).unwrap();
                let Some(mut answer) = message(&mut tpm) else {
                    return;
                };
                change(code, &mut answer);
                client.write_all(&answer).unwrap();
            }
        });
        std::thread::spawn(move || {
            for client in control.incoming() {
                let mut client = client.unwrap();
                let mut locality = [0; 5];
                if client.read_exact(&mut locality).is_ok() {
                    client.write_all(&[0; 4]).unwrap();
                }
            }
        });
        Self { port, seen }
    }

    fn connect(&self, srk_name: &[u8], session: SessionKind) -> Result<Tpm, TpmError> {
        let choice = TpmChoice::Tcti(format!("swtpm:host=127.0.0.1,port={}", self.port));
        Tpm::start(choice, session, Some(srk_name.to_vec()), DEADLINE)
    }

    fn seen(&self, code: u32) -> bool {
        self.seen.lock().unwrap().contains(&code)
    }
}

fn pair() -> (TcpListener, TcpListener) {
    loop {
        let data = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = data.local_addr().unwrap().port();
        let next = port
            .checked_add(1)
            .map(|next| TcpListener::bind(("127.0.0.1", next)));
        if let Some(Ok(control)) = next {
            return (data, control);
        }
    }
}

/// A command or an answer: its header says how long it is.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 10];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_be_bytes(bytes[2..6].try_into().unwrap());
    bytes.resize(length as usize, 0);
    stream.read_exact(&mut bytes[10..]).ok()?;
    Some(bytes)
}

/// Puts another key's point into a public area that ends here.
fn exchange_point(answer: &mut [u8], end: usize) {
    let other = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let point = other.verifying_key().to_encoded_point(false);
    assert_eq!(answer[end - 68..end - 66], [0, 32], "a P-256 key");
    answer[end - 66..end - 34].copy_from_slice(point.x().unwrap());
    answer[end - 32..end].copy_from_slice(point.y().unwrap());
}

fn srk_name(rig: &Rig) -> Vec<u8> {
    let settings = rig.tpm.settings(std::path::Path::new("")).unwrap();
    crate::choice::Settings::parse(&settings)
        .unwrap()
        .srk_name()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_under_the_pinned_name_gets_no_salt() {
    let rig = Rig::new();
    let name = srk_name(&rig);
    let honest = Interposer::before(&rig, |_, _| {});
    let tpm = honest
        .connect(&name, SessionKind::SaltedEncrypted)
        .expect("the control");
    assert!(honest.seen(START_AUTH_SESSION));
    drop(tpm);

    let liar = Interposer::before(&rig, |code, answer| {
        let ok = answer[6..10] == [0; 4];
        if code == READ_PUBLIC && ok {
            let size = usize::from(u16::from_be_bytes([answer[10], answer[11]]));
            exchange_point(answer, 12 + size);
        }
    });
    let refused = liar.connect(&name, SessionKind::SaltedEncrypted);
    assert!(matches!(refused, Err(TpmError::NotOurs { .. })), "{refused:?}");
    assert!(liar.seen(READ_PUBLIC), "it had its chance");
    assert!(!liar.seen(START_AUTH_SESSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_was_changed_on_the_way_does_not_get_out() {
    let changes: [fn(u32, &mut [u8]); 4] = [
        |_, _| {},
        // A bit of r.
        |code, answer| {
            if code == SIGN {
                answer[25] ^= 1;
            }
        },
        // Lengths that do not fit.
        |code, answer| {
            if code == SIGN {
                answer[10..24].fill(0xff);
            }
        },
        // A response code that no TPM has.
        |code, answer| {
            if code == SIGN {
                answer[6..10].fill(0xff);
            }
        },
    ];
    for session in SESSIONS {
        for (number, change) in changes.into_iter().enumerate() {
            let rig = Rig::new();
            let name = srk_name(&rig);
            let between = Interposer::before(&rig, change);
            let tpm = between.connect(&name, session).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let key = Rig { tpm, folder }.key("release").await;
            let signed = key.sign(1, b"content").await;
            assert!(between.seen(SIGN));
            match number {
                0 => assert!(signed.is_ok(), "the control: {signed:?}"),
                _ => assert!(
                    matches!(signed, Err(CustodyError::Fault(_) | CustodyError::Unavailable(_))),
                    "{session:?}, change {number}: {signed:?}"
                ),
            }
        }
    }
}
