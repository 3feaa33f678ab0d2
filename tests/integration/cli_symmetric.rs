//! The command with keys that seal and make MACs: made, listed, checked and explained.

use serde_json::Value;

use crate::cli_scene::{HEAD, Scene};

const GRANTS: &str = "\n[grants.state]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"], bytes = \"10 KiB\" }\n\
                      [grants.tickets]\nmac = { key = \"tickets\", label = \"acme/tickets\", allow = [\"verify\"] }\n";

fn made() -> Scene {
    let scene = Scene::new();
    for key in [
        &["key", "create", "state", "--profile", "seal"][..],
        &[
            "key",
            "create",
            "tickets",
            "--profile",
            "mac",
            "--label",
            "acme/tickets",
        ],
    ] {
        scene.open(key).expect(0);
    }
    scene
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_key_that_signs_nothing_is_made_listed_and_shown_without_a_public_half() {
    let scene = made();
    let listed = scene.run(&["key", "list", "--json"]).expect(0);
    let of = |name: &str| {
        let lines = listed.out.lines().map(json);
        lines.into_iter().find(|key| key["name"] == name).unwrap()
    };
    for (name, profile, algorithm) in [
        ("state", "seal", "xchacha20-poly1305"),
        ("tickets", "mac", "hmac-sha256"),
    ] {
        let key = of(name);
        assert_eq!(key["algorithm"], algorithm, "{key}");
        assert_eq!(key["profile"]["kind"], profile, "{key}");
        assert_eq!(key["custody"], "software", "{key}");
    }
    let shown = scene.run(&["key", "show", "tickets"]).expect(0);
    assert!(shown.out.contains("mac acme/tickets"), "{}", shown.out);
    for (arguments, says) in [
        (
            &["key", "create", "x", "--profile", "seal", "--algorithm", "p256"][..],
            "is xchacha20-poly1305, not p256",
        ),
        (&["key", "create", "x", "--profile", "mac"], "needs `--label`"),
        (
            &["key", "create", "x", "--profile", "seal", "--label", "a"],
            "belongs to",
        ),
    ] {
        scene.open(arguments).expect(2).says(&[says]);
    }
    scene
        .open(&["key", "create", "state", "--profile", "seal"])
        .expect(1);
}

#[test]
fn check_says_each_right_and_what_a_grant_needs() {
    let scene = made();
    scene.manifest("crypt.toml", format!("{HEAD}{GRANTS}"));
    let said = scene.run(&["check", "crypt.toml"]).expect(0);
    for sentence in [
        "may seal and unseal with key `state`, 10 KiB in all",
        "may verify MACs with key `tickets` under label `acme/tickets`",
    ] {
        assert!(said.out.contains(sentence), "{}", said.out);
    }
    let other = GRANTS
        .replace("\"state\"", "\"tickets\"")
        .replace("acme/tickets\", allow", "acme\", allow");
    scene.manifest("crypt.toml", format!("{HEAD}{other}"));
    let said = scene.run(&["check", "crypt.toml", "--json"]).expect(1);
    let against = json(&said.out)["against"].to_string();
    for reason in ["needs a key with profile `seal`", "not made for label `acme`"] {
        assert!(against.contains(reason), "{against}");
    }
}

#[test]
fn explain_says_what_is_left_of_the_bytes() {
    let scene = made();
    scene.manifest("crypt.toml", format!("{HEAD}{GRANTS}"));
    let said = scene.run(&["explain", "crypt.toml", "state", "--json"]).expect(0);
    let rules = json(&said.out)["rules"].clone();
    let budget = rules
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["rule"] == "budget")
        .unwrap();
    assert_eq!(budget["detail"], "0 bytes of 10 KiB were sealed and unsealed");
    scene.open(&["key", "disable", "tickets"]).expect(0);
    let said = scene
        .run(&["explain", "crypt.toml", "tickets", "--json"])
        .expect(3);
    assert_eq!(json(&said.out)["denied_by"], "key-state");
}
