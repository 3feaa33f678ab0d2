//! The command line as a whole: consistent, and without secrets in it.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn a_passphrase_cannot_be_given_as_a_value() {
    for bad in [
        &["claviger", "--passphrase", "x", "key", "list"][..],
        &["claviger", "init", "--passphrase=x"],
    ] {
        assert!(Arguments::try_parse_from(bad).is_err(), "{bad:?}");
    }
    assert!(Arguments::try_parse_from(["claviger", "key", "list", "--passphrase-file", "x"]).is_ok());
}

#[test]
fn global_options_are_taken_before_and_after_the_command() {
    for good in [["claviger", "--json", "doctor"], ["claviger", "doctor", "--json"]] {
        assert!(Arguments::try_parse_from(good).unwrap().global.json);
    }
}

#[test]
fn one_input_at_most() {
    assert!(Arguments::try_parse_from(["claviger", "run", "m.toml", "x", "--stdin"]).is_err());
    assert!(Arguments::try_parse_from(["claviger", "run", "m.toml", "x"]).is_ok());
    assert!(Arguments::try_parse_from(["claviger", "run", "m.toml"]).is_ok());
}

#[test]
fn lives_of_tokens_are_whole_seconds() {
    assert_eq!(whole_seconds("10 min"), Ok(600));
    assert!(whole_seconds("10").is_err());
    assert!(whole_seconds("1500 ms").is_err());
}
