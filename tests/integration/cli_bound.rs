//! A keyring that is bound to how its machine starts, by the command: another start opens nothing, the recovery code does, and what is asked
//! for wrongly is refused. The TPM outlives the commands, as a chip does, and "firmware" is tpm2-tools.

use std::fs;
use std::path::Path;
use std::process::Command;

use claviger_tpm::{Tpm, TpmChoice};

use crate::cli_scene::{Said, Scene};

/// A software TPM that stays while commands come and go.
pub(crate) struct Machine {
    // Dropped with the test: it ends the child.
    _tpm: Tpm,
    pub(crate) tcti: String,
}

impl Machine {
    pub(crate) fn new(scene: &Scene, name: &str) -> Self {
        let state = scene.path(name);
        let tpm = Tpm::connect(TpmChoice::Swtpm { state }).unwrap();
        let line = fs::read(format!("/proc/{}/cmdline", tpm.swtpm_pid().unwrap())).unwrap();
        let line = String::from_utf8(line).unwrap();
        let (_, port) = line.split_once("port=").unwrap();
        let port = port.split(',').next().unwrap();
        Self {
            tcti: format!("swtpm:host=127.0.0.1,port={port}"),
            _tpm: tpm,
        }
    }

    fn command(&self, args: &[&str]) -> std::process::Output {
        let output = Command::new("tpm2").args(args).args(["-T", &self.tcti]).output();
        output.expect("tpm2: apt-get install tpm2-tools")
    }

    /// What somebody else does with the TPM.
    pub(crate) fn tpm2(&self, args: &[&str]) {
        let output = self.command(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Whether the TPM lets somebody else do it.
    pub(crate) fn tries(&self, args: &[&str]) -> bool {
        self.command(args).status.success()
    }

    /// Measures something into a register, as firmware does.
    fn measure(&self, register: u32) {
        self.tpm2(&["pcrextend", &format!("{register}:sha256={}", "cd".repeat(32))]);
    }

    pub(crate) fn init(&self, scene: &Scene, more: &[&str]) -> Said {
        let init = ["init", "--custody", "swtpm", "--tcti", &self.tcti];
        scene.run(&[&init[..], more].concat())
    }
}

const BIND: [&str; 4] = ["--pcr", "sha256:0,2,4,7", "--recovery-out", "code"];
const RESEAL: [&str; 2] = ["keyring", "reseal"];

/// A keyring that is bound, with keys of every sort that a TPM holds.
fn bound() -> (Scene, Machine) {
    let scene = Scene::bare();
    let machine = Machine::new(&scene, "chip");
    machine.measure(0);
    let said = machine.init(&scene, &BIND).expect(0);
    assert!(said.out.contains("sha256:0,2,4,7: another start"), "{said}");
    said.says(&["move it off this machine"]);
    for key in [
        &[
            "release",
            "--profile",
            "sshsig",
            "--namespace",
            "file",
            "--algorithm",
            "p256",
        ][..],
        &[
            "sealed",
            "--profile",
            "labeled",
            "--label",
            "x",
            "--algorithm",
            "ed25519",
        ],
        &["evidence", "--profile", "attest"],
        &["tags", "--profile", "mac", "--label", "x"],
    ] {
        scene.run(&[&["key", "create"], key].concat()).expect(0);
    }
    scene.run(&["pin", "bot.toml"]).expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    (scene, machine)
}

fn refused(said: Said, registers: &str) {
    assert_eq!(said.out, "", "{said}");
    said.says(&[
        &format!(": {registers} changed ("),
        "claviger keyring reseal --recovery-file FILE",
        "somebody may have",
    ]);
}

#[test]
fn another_start_opens_nothing_and_the_code_binds_to_the_new_one() {
    let (scene, machine) = bound();
    assert_eq!(
        fs::metadata(scene.path("code"))
            .map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777)
            .unwrap(),
        0o600
    );
    machine.measure(5);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    machine.measure(4);
    for command in [
        &["run", "bot.toml", "sign release x"][..],
        &["key", "create", "y", "--profile", "labeled", "--label", "x"],
        &["audit", "checkpoint"],
        &RESEAL,
        &["keyring", "reseal", "--no-pcr", "--weaken"],
    ] {
        refused(scene.run(command).expect(1), "sha256:4");
    }
    assert!(scene.run(&["doctor"]).out.contains("bound to sha256:0,2,4,7"));
    // Another code, a mistyped one, none at all.
    let code = String::from_utf8(scene.read("code")).unwrap();
    let private = |name: &str, text: &str| {
        scene.write(name, text);
        fs::set_permissions(
            scene.path(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
    };
    private(
        "other",
        "claviger-recovery-00000000-00000000-00000000-00000000-00000000\n",
    );
    let by = |file: &str| scene.run(&[&RESEAL[..], &["--recovery-file", file]].concat());
    by("other").expect(1).says(&["mistyped"]);
    let second = Machine::new(&scene, "chip2");
    second.measure(0);
    let elsewhere = [
        "--keyring",
        "keyring2",
        "init",
        "--custody",
        "swtpm",
        "--tcti",
        &second.tcti,
    ];
    scene
        .run(&[&elsewhere[..], &["--pcr", "sha256:0", "--recovery-out", "code2"]].concat())
        .expect(0);
    by("code2")
        .expect(1)
        .says(&["the recovery code is not this keyring's"]);
    by("missing").expect(1);

    let said = by("code").expect(0);
    assert!(
        said.out.contains("bound to sha256:0,2,4,7 as they are now"),
        "{said}"
    );
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    // The code stays good, also as it is typed from paper, and the sealing is repeated without it.
    scene.run(&RESEAL).expect(0);
    machine.measure(7);
    refused(
        scene.run(&["run", "bot.toml", "sign release x"]).expect(1),
        "sha256:7",
    );
    private("typed", &code.to_uppercase().replacen("CLAVIGER", "claviger", 1));
    by("typed").expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
}

#[test]
fn a_binding_is_made_changed_and_ended_later_and_only_when_it_is_said() {
    let (scene, machine) = bound();
    let reseal = |more: &[&str]| scene.run(&[&RESEAL[..], more].concat());
    reseal(&["--no-pcr"]).expect(2);
    reseal(&[
        "--custody",
        "passphrase",
        "--weaken",
        "--new-passphrase-file",
        "passphrase",
    ])
    .expect(2)
    .says(&["the keyring is bound to sha256:0,2,4,7", "--no-pcr --weaken"]);
    // No file is overwritten, and nothing is bound to a code that nobody has.
    let before = scene.read("keyring/keyring.db");
    reseal(&BIND).expect(1).says(&["left as it is"]);
    assert_eq!(scene.read("keyring/keyring.db"), before);
    reseal(&["--pcr", "sha256:0,7", "--recovery-out", "new"]).expect(0);
    machine.measure(4);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    machine.measure(7);
    refused(
        scene.run(&["run", "bot.toml", "sign release x"]).expect(1),
        "sha256:7",
    );
    reseal(&["--recovery-file", "code"])
        .expect(1)
        .says(&["the recovery code is not this keyring's"]);
    // Planned: unbound before the change, bound after it.
    reseal(&["--recovery-file", "new"]).expect(0);
    reseal(&["--no-pcr", "--weaken"]).expect(0);
    reseal(&["--recovery-file", "new"])
        .expect(2)
        .says(&["bound to no registers"]);
    machine.measure(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    reseal(&["--pcr", "sha256:0", "--recovery-out", "third"]).expect(0);
    machine.measure(0);
    refused(scene.run(&["audit", "checkpoint"]).expect(1), "sha256:0");
    reseal(&["--recovery-file", "third"]).expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
}

#[test]
fn what_measures_nothing_binds_nothing_and_leaves_no_file() {
    let scene = Scene::bare();
    let machine = Machine::new(&scene, "chip");
    machine
        .init(&scene, &BIND)
        .expect(1)
        .says(&["nothing was ever measured into sha256:0,2,4,7"]);
    scene
        .run(&[&["init", "--custody", "swtpm"][..], &BIND].concat())
        .expect(1)
        .says(&["nothing was ever measured"]);
    for gone in ["code", "keyring"] {
        assert!(!Path::new(&scene.path(gone)).exists(), "{gone}");
    }
    let passphrase = [
        "init",
        "--custody",
        "passphrase",
        "--passphrase-file",
        "passphrase",
    ];
    scene.run(&[&passphrase[..], &BIND].concat()).expect(2);
    machine.measure(2);
    machine.init(&scene, &BIND).expect(0);
}
