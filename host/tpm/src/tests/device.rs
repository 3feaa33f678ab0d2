//! TPMs that are devices. There is one here whatever the machine: a software TPM behind a pseudo-terminal, as a virtual machine has
//! one. Not a chip: none was ever tested here.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use claviger_core::custody::Assurance;
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::*;
use crate::device::assurance;

/// A software TPM that is a device, and ends with this.
struct Virtual {
    swtpm: Child,
    path: PathBuf,
    // Kept open: a terminal that nobody has open hangs up.
    _terminal: OwnedFd,
    _state: TempDir,
}

impl Virtual {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let theirs = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&theirs).unwrap();
        unlockpt(&theirs).unwrap();
        let path = PathBuf::from(ptsname(&theirs, Vec::new()).unwrap().into_string().unwrap());
        let terminal = rustix::fs::open(
            &path,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let mut plain = tcgetattr(&terminal).unwrap();
        plain.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &plain).unwrap();
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let swtpm = Command::new("swtpm")
            .args(["chardev", "--tpm2", "--fd", &theirs.as_raw_fd().to_string()])
            .args(["--tpmstate", &format!("dir={}", state.path().display())])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .spawn()
            .expect("needs swtpm: apt-get install swtpm");
        Self {
            swtpm,
            path,
            _terminal: terminal,
            _state: state,
        }
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        self.swtpm.kill().ok();
        self.swtpm.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_tpm_that_is_a_device_works_and_is_not_called_hardware() {
    let device = Virtual::start();
    let rig = Rig {
        tpm: Tpm::connect(TpmChoice::Device(device.path.clone())).unwrap(),
        folder: tempfile::tempdir().unwrap(),
    };
    assert_eq!(rig.tpm.assurance(), Assurance::Swtpm);
    assert_eq!(rig.tpm.sealer().assurance(), Assurance::Swtpm);
    let facts = rig.tpm.facts().await.unwrap();
    assert_eq!(facts.manufacturer, "IBM");
    assert_eq!(facts.assurance, Assurance::Swtpm);
    assert_eq!(
        facts.sessions,
        SessionKind::SaltedEncrypted,
        "who may listen is not known"
    );
    rig.key("release").await.sign(1, b"content").await.unwrap();
    assert_eq!(rig.tpm.swtpm_pid(), None, "it is not our child");
}

#[test]
fn only_a_known_maker_of_chips_and_firmware_is_called_hardware() {
    let device = TpmChoice::Device("/dev/tpmrm0".into());
    let broker = TpmChoice::Tcti("tabrmd:bus_name=com.example".to_owned());
    for maker in ["INTC", "AMD", "IFX", "STM", "NTC", "QCOM"] {
        assert_eq!(assurance(&device, maker), Assurance::Hardware, "{maker}");
        assert_eq!(assurance(&broker, maker), Assurance::Hardware, "{maker}");
    }
    for maker in [
        "IBM", "MSFT", "GOOG", "AMZN", "VMW", "XYZZ", "SIM0", "SW", "QEMU", "intc", "INTCX", "", "?",
    ] {
        assert_eq!(assurance(&device, maker), Assurance::Swtpm, "{maker}");
        assert_eq!(assurance(&broker, maker), Assurance::Swtpm, "{maker}");
    }
    let software = [
        TpmChoice::Swtpm {
            state: "/k/tpm".into(),
        },
        TpmChoice::Tcti("swtpm:port=2321".to_owned()),
        TpmChoice::Tcti("mssim:port=2321".to_owned()),
    ];
    for choice in software {
        assert_eq!(
            assurance(&choice, "INTC"),
            Assurance::Swtpm,
            "whatever it says of itself"
        );
    }
}
