//! From a component's bytes to machine code, in a child process with limits or in this one. Runs no guest code.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use claviger_core::name::escape;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wasmtime::Engine;

use crate::cache::MAX_CODE;
use crate::engine;
use crate::error::{LoadError, MAX_SHOWN};
use crate::native::OwnCode;

/// A component has at most this many bytes: one with CPython has 18 MiB.
pub const MAX_COMPONENT: usize = 64 * 1024 * 1024;

/// Address space of the compiling child: CPython takes about 2 GiB with two compiler threads.
const CHILD_MEMORY: u64 = 8 << 30;

/// Open files of the compiling child: its three pipes and a few of the runtime's own.
const CHILD_FILES: u64 = 32;

/// What a child says on stderr is read up to here.
const MAX_COMPLAINT: u64 = 4096;

/// The exit code of a child that was given something that is not a component it can compile.
const NOT_COMPILED: u8 = 65;

/// Where untrusted bytes are compiled.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Compiler {
    /// In this process, on a thread for blocking work. A component that makes the compiler take all memory takes this process's.
    #[default]
    InProcess,
    /// In a child process that limits itself and is killed at a deadline.
    Child(CompilerCommand),
}

/// A command that calls [`compile_child`].
#[derive(Debug, Clone)]
pub struct CompilerCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    deadline: Duration,
}

impl CompilerCommand {
    /// The program, by absolute path, and the arguments that make it call [`compile_child`].
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            program,
            arguments,
            deadline: Duration::from_secs(120),
        }
    }

    /// Kills the child after this time. Default 120 s: CPython takes 16 s on two slow cores.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// Compiles. Dropping the future kills a child; a compilation in this process goes on to its end and is thrown away.
pub(crate) async fn compile(
    compiler: &Compiler,
    engine: &Engine,
    component: &[u8],
) -> Result<OwnCode, LoadError> {
    let code = match compiler {
        Compiler::InProcess => in_process(engine.clone(), component.to_vec()).await?,
        Compiler::Child(command) => in_child(command, component).await?,
    };
    Ok(OwnCode::compiled(code))
}

async fn in_process(engine: Engine, component: Vec<u8>) -> Result<Vec<u8>, LoadError> {
    let compiled = tokio::task::spawn_blocking(move || {
        // The compiler must not panic on any input, but has; a bad component must not take the host's task with it.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            engine.precompile_component(&component)
        }))
    })
    .await;
    match compiled {
        Ok(Ok(Ok(code))) => Ok(code),
        Ok(Ok(Err(error))) => Err(LoadError::NotCompiled(complaint(&error))),
        Ok(Err(_)) | Err(_) => Err(LoadError::NotCompiled("the compiler panicked".to_owned())),
    }
}

async fn in_child(command: &CompilerCommand, component: &[u8]) -> Result<Vec<u8>, LoadError> {
    let failed = |error: std::io::Error| LoadError::Compiler(error);
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed(std::io::Error::other("the child has no pipes")));
    };
    let work = async {
        let feed = async {
            // A child that complains early closes the pipe: what it says is the better error.
            stdin.write_all(component).await.ok();
            drop(stdin);
        };
        let (mut code, mut said) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(MAX_CODE as u64 + 1);
        let mut stderr = stderr.take(MAX_COMPLAINT);
        let ((), read, complained) =
            tokio::join!(feed, stdout.read_to_end(&mut code), stderr.read_to_end(&mut said));
        read?;
        complained?;
        // Closing our ends makes a child that still writes end too.
        drop((stdout, stderr));
        Ok((child.wait().await?, code, said))
    };
    let (status, code, said) = tokio::time::timeout(command.deadline, work)
        .await
        .map_err(|_| LoadError::NotCompiled(format!("it takes longer than {:?}", command.deadline)))?
        .map_err(failed)?;
    if code.len() > MAX_CODE {
        return Err(LoadError::NotCompiled(format!(
            "its machine code has more than {MAX_CODE} bytes"
        )));
    }
    if status.success() {
        return Ok(code);
    }
    if status.code() == Some(i32::from(NOT_COMPILED)) {
        return Err(LoadError::NotCompiled(escape(
            &String::from_utf8_lossy(&said),
            MAX_SHOWN,
        )));
    }
    Err(LoadError::NotCompiled(format!(
        "the compiler was stopped at its limits ({status})"
    )))
}

/// The child's side: limits this process, reads a component from `input` to its end, writes machine code to `output`, and says
/// on `complaints` what is wrong with a component. For a hidden subcommand that does nothing else, before any thread is started.
///
/// The limits hold for the whole process from then on: 8 GiB of address space, `seconds` of processor time, no file output, 32
/// open files, no core dump.
pub fn compile_child(
    input: &mut dyn Read,
    output: &mut dyn Write,
    complaints: &mut dyn Write,
    seconds: u64,
) -> ExitCode {
    let limits = [
        (Resource::As, CHILD_MEMORY),
        (Resource::Cpu, seconds),
        (Resource::Fsize, 0),
        (Resource::Nofile, CHILD_FILES),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        if let Err(error) = setrlimit(resource, limit) {
            return complain(complaints, &format!("cannot limit this process: {error}"));
        }
    }
    let mut component = Vec::new();
    if let Err(error) = input.take(MAX_COMPONENT as u64 + 1).read_to_end(&mut component) {
        return complain(complaints, &format!("cannot read the component: {error}"));
    }
    if component.len() > MAX_COMPONENT {
        return complain(complaints, "the component is too large");
    }
    let compiled = engine::compiling().and_then(|engine| engine.precompile_component(&component));
    match compiled {
        Ok(code) => match output.write_all(&code).and_then(|()| output.flush()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => complain(complaints, &complaint(&error)),
    }
}

fn complain(complaints: &mut dyn Write, text: &str) -> ExitCode {
    match complaints.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(NOT_COMPILED),
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the compiler says of a component. It quotes names that the component chose: escaped and cut.
fn complaint(error: &wasmtime::Error) -> String {
    escape(&format!("{error:#}"), MAX_SHOWN)
}
