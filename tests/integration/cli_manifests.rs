//! `claviger check` and `claviger pin` on manifests that are wrong, hostile or not there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use expect_test::expect;

use crate::cli_scene::{GRANT, HEAD, Scene, finish};

/// 256 KiB: what a manifest may have.
const MAX: usize = 256 * 1024;

#[test]
fn every_problem_is_drawn_at_once_with_its_code_its_place_and_what_helps() {
    let scene = Scene::bare();
    scene.write(
        "bad.toml",
        "schema = 1\n[agent]\nnmae = \"bot\"\ncomponent = \"agent.wasm\"\ncomponent = \"other.wasm\"\n\
         [limits]\nmemory = \"64 MB\"\n[grants.a]\nsign = { key = \"../release\" }\n\
         hours = \"Mon-Fri 08:00-18:00 Europe/Zurch\"\n",
    );
    let said = scene.run(&["check", "bad.toml"]).expect(1);
    assert_eq!(said.out, "");
    expect![[r#"
        manifest::not-pinned

          ⚠ [agent] pins no digest; until it does, the agent is not admitted
           ╭─[bad.toml:2:1]
         1 │ schema = 1
         2 │ [agent]
           · ───┬───
           ·    ╰── no `digest`
         3 │ nmae = "bot"
           ╰────
          help: run `claviger pin` to approve the component's bytes

        manifest::unknown-field

          × [agent] has no field `nmae`; expected one of `name`, `component`, `digest`, `args`,
          │ `acknowledged`
           ╭─[bad.toml:3:1]
         2 │ [agent]
         3 │ nmae = "bot"
           · ──┬─
           ·   ╰── unknown field
         4 │ component = "agent.wasm"
           ╰────
          help: did you mean `name`?

        manifest::duplicate-field

          × `component` is given twice; expected it once
           ╭─[bad.toml:5:1]
         4 │ component = "agent.wasm"
         5 │ component = "other.wasm"
           · ────┬────
           ·     ╰── given again
         6 │ [limits]
           ╰────
          help: remove one of the two: which of them counts would be a guess

        manifest::wrong-value

          × `memory` in [limits]: `64 MB` is not acceptable; expected a whole number and one of the units
          │ B, KiB, MiB and GiB, such as `64 MiB`
           ╭─[bad.toml:7:10]
         6 │ [limits]
         7 │ memory = "64 MB"
           ·          ───┬───
           ·             ╰── not acceptable
         8 │ [grants.a]
           ╰────
          help: for example `memory = "64 MiB"`

        manifest::no-expiry

          ⚠ [grants.a] never expires
           ╭─[bad.toml:8:1]
         7 │ memory = "64 MB"
         8 │ [grants.a]
           · ─────┬────
           ·      ╰── no `expires`
         9 │ sign = { key = "../release" }
           ╰────
          help: for example `expires = 2027-01-01T00:00:00Z`

        manifest::unlimited

          ⚠ [grants.a] limits neither the number of uses nor their rate
           ╭─[bad.toml:8:1]
         7 │ memory = "64 MB"
         8 │ [grants.a]
           · ─────┬────
           ·      ╰── no `uses` and no `rate`
         9 │ sign = { key = "../release" }
           ╰────
          help: for example `rate = "30/hour"`

        manifest::wrong-value

          × `key` in `sign` of [grants.a]: `../release` is not acceptable; expected 1 to 64 characters of
          │ a-z, 0-9 and -
            ╭─[bad.toml:9:16]
          8 │ [grants.a]
          9 │ sign = { key = "../release" }
            ·                ──────┬─────
            ·                      ╰── not acceptable
         10 │ hours = "Mon-Fri 08:00-18:00 Europe/Zurch"
            ╰────
          help: for example `key = "release"`

        manifest::wrong-value

          × `hours` in [grants.a]: `Europe/Zurch` is no time zone; expected an IANA name such as `Europe/
          │ Zurich` or `UTC`; did you mean `Europe/Zurich`?
            ╭─[bad.toml:10:9]
          9 │ sign = { key = "../release" }
         10 │ hours = "Mon-Fri 08:00-18:00 Europe/Zurch"
            ·         ─────────────────┬────────────────
            ·                          ╰── not a window
            ╰────
          help: for example `hours = "Mon-Fri 08:00-18:00 Europe/Zurich"`

        error: the manifest `bad.toml` has 5 errors
    "#]]
    .assert_eq(&said.err);
}

#[test]
fn each_mistake_has_its_code_line_and_column() {
    // What is added to the head or follows it, and the code with its place.
    let grant = |line: &str| format!("[grants.a]\nsign = {{ key = \"k\" }}\n{line}\n");
    let rows = [
        ("nmae = \"x\"\n".to_owned(), "manifest::unknown-field", 6, 1),
        ("[grant.a]\n".to_owned(), "manifest::unknown-field", 6, 2),
        (grant("use = 5"), "manifest::unknown-field", 8, 1),
        (grant("uses = 5\nuses = 6"), "manifest::duplicate-field", 9, 1),
        (grant("uses = 0"), "manifest::wrong-value", 8, 8),
        (grant("uses = \"5\""), "manifest::wrong-type", 8, 8),
        (grant("rate = \"30/fortnight\""), "manifest::wrong-value", 8, 8),
        (
            grant("hours = \"Mon-Fri 08:00-18:00 Europe/Zurch\""),
            "manifest::wrong-value",
            8,
            9,
        ),
        (grant("expires = \"tomorrow\""), "manifest::wrong-type", 8, 11),
        (
            grant("on-violation = \"explode\""),
            "manifest::wrong-value",
            8,
            16,
        ),
        (
            "[limits]\nmemory = \"64 MB\"\n".to_owned(),
            "manifest::wrong-value",
            7,
            10,
        ),
        (
            "[limits]\ndeadline = \"60 parsecs\"\n".to_owned(),
            "manifest::wrong-value",
            7,
            12,
        ),
        (
            "[grants.a]\nsign = { key = \"../k\" }\n".to_owned(),
            "manifest::wrong-value",
            7,
            16,
        ),
        (
            "[grants.a]\nhttp = { origin = \"https://x\" }\n".to_owned(),
            "manifest::missing-field",
            7,
            8,
        ),
    ];
    let scene = Scene::bare();
    for (rest, code, line, column) in rows {
        scene.write("bad.toml", format!("{HEAD}{rest}"));
        let json = scene.run(&["check", "bad.toml", "--json"]).expect(1).lines();
        let [report] = json.as_slice() else {
            panic!("{rest}: {json:?}")
        };
        assert_eq!(report["ok"], false);
        let problems = report["problems"].as_array().unwrap();
        assert!(
            problems.iter().any(|problem| {
                problem["code"] == code
                    && problem["line"] == line
                    && problem["column"] == column
                    && problem["severity"] == "error"
            }),
            "{rest}: {problems:#?}"
        );
        let place = format!("bad.toml:{line}:{column}");
        scene.run(&["check", "bad.toml"]).expect(1).says(&[
            code,
            &place,
            "error: the manifest `bad.toml` has",
        ]);
    }
    scene.run(&["check", "bot.toml"]).expect(0);
}

#[test]
fn a_digest_that_does_not_match_is_denied_with_both_digests_and_the_way_out() {
    let scene = Scene::new();
    let pinned = scene.run(&["pin", "bot.toml", "--json"]).expect(0).lines()[0]["new"].clone();
    let pinned = pinned.as_str().unwrap().to_owned();
    let mut component = scene.read("agent.wasm");
    // An empty custom section: another component that does the same.
    component.extend_from_slice(&[0, 2, 1, b'x']);
    scene.write("agent.wasm", component);
    let changed = scene
        .run(&["pin", "bot.toml", "--dry-run", "--json"])
        .expect(0)
        .lines()[0]["new"]
        .clone();
    let changed = changed.as_str().unwrap().to_owned();
    assert_ne!(pinned, changed);
    scene
        .script("echo hi")
        .expect(3)
        .says(&[&pinned, &changed, "claviger pin"]);
    let checked = scene.run(&["check", "bot.toml"]).expect(1);
    for part in [&pinned, &changed, "claviger pin bot.toml"] {
        assert!(checked.out.contains(part), "{part}: {checked}");
    }
    scene.run(&["explain", "bot.toml", "release"]).expect(3);
    scene.run(&["pin", "bot.toml"]).expect(0);
    assert_eq!(scene.script("echo hi").expect(0).out, "hi\n");
}

#[test]
fn pinning_changes_the_digest_and_no_other_byte() {
    let scene = Scene::bare();
    let digest = |scene: &Scene| {
        scene
            .run(&["pin", "m.toml", "--dry-run", "--json"])
            .expect(0)
            .lines()[0]["new"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let old = format!("sha256:{}", "0".repeat(64));
    for (before, after) in [("\r\n", "\n"), ("\n", "\n# end, without a line end")] {
        let text = |digest: &str| {
            format!("{HEAD}  digest   =   \"{digest}\"   # ünïcode\n\n\t{GRANT}{after}").replace('\n', before)
        };
        scene.write("m.toml", text(&old));
        let new = digest(&scene);
        assert_eq!(
            scene.read("m.toml"),
            text(&old).as_bytes(),
            "a dry run writes nothing"
        );
        let said = scene.run(&["pin", "m.toml"]).expect(0);
        assert_eq!(said.out, format!("{old} → {new}\n"));
        assert_eq!(String::from_utf8(scene.read("m.toml")).unwrap(), text(&new));
        assert!(scene.run(&["pin", "m.toml"]).expect(0).out.contains("as before"));
    }
    scene.write("m.toml", format!("{HEAD}digest = \"rubbish\"\n"));
    scene.run(&["pin", "m.toml"]).expect(0);
    scene.run(&["check", "m.toml"]).expect(0);
}

#[test]
fn pinning_replaces_the_file_in_one_step_and_keeps_links_and_modes() {
    let scene = Scene::bare();
    fs::create_dir(scene.path("real")).unwrap();
    // Its relative paths start where the operator sees it: at the link.
    scene.write("real/m.toml", format!("{HEAD}{GRANT}"));
    fs::set_permissions(scene.path("real/m.toml"), fs::Permissions::from_mode(0o440)).unwrap();
    symlink("real/m.toml", scene.path("link.toml")).unwrap();
    // Whoever has the old file open keeps it whole: the name was moved, nothing was written over.
    let open = fs::File::open(scene.path("real/m.toml")).unwrap();
    scene.run(&["pin", "link.toml"]).expect(0);
    let old = std::io::read_to_string(open).unwrap();
    assert_eq!(old, format!("{HEAD}{GRANT}"));
    assert!(
        String::from_utf8(scene.read("real/m.toml"))
            .unwrap()
            .contains("digest = \"sha256:")
    );
    assert!(
        fs::symlink_metadata(scene.path("link.toml"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        fs::metadata(scene.path("real/m.toml"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o440
    );
    assert_eq!(
        fs::read_dir(scene.path("real")).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn what_is_no_manifest_is_an_error_that_says_what_it_is() {
    let scene = Scene::bare();
    let full = |size: usize| {
        let text = format!("{HEAD}{GRANT}");
        let rest = size - text.len() - 2;
        format!("{text}#{}\n", "x".repeat(rest))
    };
    scene.write("largest.toml", full(MAX));
    scene.run(&["check", "largest.toml"]).expect(0);
    scene.write("large.toml", full(MAX + 1));
    scene.write("latin.toml", b"# \xe9\n");
    scene.write("nul.toml", format!("{HEAD}\0"));
    scene.write("empty.toml", "");
    fs::create_dir(scene.path("folder.toml")).unwrap();
    symlink("loop.toml", scene.path("loop.toml")).unwrap();
    let before = scene.files();
    for (name, part) in [
        ("large.toml", "has over 262144 bytes"),
        ("latin.toml", "is not UTF-8: byte 2"),
        ("nul.toml", "manifest::syntax"),
        ("empty.toml", "manifest::missing-field"),
        ("folder.toml", "is a folder; expected a file"),
        ("missing.toml", "No such file"),
        ("loop.toml", "Too many levels of symbolic links"),
        ("/dev/zero", "is a device; expected a file"),
    ] {
        for command in [
            &["check", name][..],
            &["pin", name],
            &["run", name, "x"],
            &["explain", name, "release"],
        ] {
            scene.run(command).expect(1).says(&[part]);
        }
    }
    assert!(before == scene.files(), "nothing was written");
}

#[test]
fn a_manifest_that_cannot_be_replaced_stays_as_it_is() {
    let scene = Scene::bare();
    let before = scene.read("bot.toml");
    // Another mount in its place: it can be read, but nothing can be renamed onto it. Root is not stopped by modes.
    let mut command = std::process::Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=rename,renameat,renameat2",
        "-e",
        "inject=rename,renameat,renameat2:error=EROFS",
    ]);
    command.arg(crate::cli_scene::binary()).args(["pin", "bot.toml"]);
    scene.prepare(&mut command);
    finish(command)
        .expect(1)
        .says(&["cannot be written; it is as it was", "Read-only file system"]);
    assert_eq!(scene.read("bot.toml"), before);
    assert_eq!(scene.files().len(), 3, "nothing is left beside it");
    scene.run(&["pin", "bot.toml"]).expect(0);
    assert_ne!(scene.read("bot.toml"), before, "the control");
}

#[test]
fn what_a_run_would_refuse_is_drawn_at_the_field_that_asks_for_it() {
    let scene = Scene::new();
    for (name, id) in [("client", "me"), ("other", "you")] {
        let made = [
            "key",
            "create",
            name,
            "--profile",
            "client-assertion",
            "--client-id",
            id,
            "--audience",
            "https://as.example.com/token",
        ];
        scene.open(&made).expect(0);
    }
    let grants = |key: &str, secret: &str| {
        format!(
            "{HEAD}{GRANT}[grants.api]\nhttp = {{ origin = \"https://api.example.com\", allow = [\"GET /items\"] }}\n\
             inject = {{ oauth2 = \"client-credentials\", token-endpoint = \"https://as.example.com/token\", \
             client-id = \"me\", auth = \"private-key-jwt\", key = \"{key}\" }}\n\
             [grants.read]\nhttp = {{ origin = \"https://read.example.com\", allow = [\"GET /items\"] }}\n{secret}"
        )
    };
    scene.manifest("good.toml", grants("client", ""));
    scene.run(&["check", "good.toml"]).expect(0);
    scene.manifest("bad.toml", grants("other", "inject = { bearer = \"token\" }\n"));
    let said = scene.run(&["check", "bad.toml"]).expect(1);
    let parts = [
        "manifest::credential",
        "× [grants.api]: key `other` is for the client `you`, the grant names another one",
        "help: correct `client-id` or the endpoint",
        "× [grants.read]: the keyring has no secret `token`",
        "help: add it with `claviger secret add token --kind bearer --origin https://read.example.com`",
    ];
    for part in parts {
        // Long lines are wrapped behind a bar.
        let err = said.err.replace("\n  │ ", " ").replace("\n        ", " ");
        assert!(err.contains(part), "{part}: {err}");
    }
    let json = scene.run(&["check", "bad.toml", "--json"]).expect(1).lines();
    let problems = json[0]["problems"].as_array().unwrap().iter();
    let places: Vec<_> = problems
        .filter(|problem| problem["code"] == "manifest::credential")
        .map(|problem| (problem["line"].as_u64().unwrap(), problem["column"].clone()))
        .collect();
    let text = String::from_utf8(scene.read("bad.toml")).unwrap();
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.starts_with("inject"));
    let expected: Vec<_> = lines.map(|(_, number)| (number, 1.into())).collect();
    assert_eq!(places, expected);
    // As the run says it, and as `explain` does.
    let refused = scene
        .open(&["run", "bad.toml", "echo hi"])
        .expect(3)
        .says(&["key `other` is for the client `you`", "no secret `token`"]);
    for reason in json[0]["against"].as_array().unwrap() {
        let reason = reason.as_str().unwrap();
        assert!(refused.err.contains(reason), "{reason}: {refused}");
    }
    let explained = scene.run(&["explain", "bad.toml", "api"]).expect(3);
    assert!(explained.out.contains("is for the client `you`"), "{explained}");
    // Without a keyring it is said that nobody looked.
    let bare = Scene::bare();
    bare.manifest("bad.toml", &text);
    let said = bare.run(&["check", "bad.toml"]).expect(0);
    assert!(
        said.out.contains("not checked: whether the keyring has"),
        "{said}"
    );
}
