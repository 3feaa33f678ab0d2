//! What the process gives up before it reads anything: core dumps, being looked into, files for others. Not the agents' limits.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Call first in `main`, while there is one thread. What the system refuses is reported by `claviger doctor`; secrets are in pages
/// that are left out of dumps in any case.
pub(crate) fn process() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).ok();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn afterwards_there_are_no_dumps_and_no_files_for_others() {
        process();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(umask(Mode::RWXG | Mode::RWXO), Mode::RWXG | Mode::RWXO);
    }
}
