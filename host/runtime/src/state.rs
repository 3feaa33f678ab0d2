//! What one instance has in its store: the closed world of WASI that its manifest describes, and its end of the broker.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use claviger_core::audit::InstanceEnd;
use claviger_core::manifest::{Access, Manifest};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{
    FsPerms, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};

use crate::error::RunError;
use crate::files::OpenFiles;
use crate::folders::OpenFolder;
use crate::http::{HttpCtx, HttpState, HttpView};
use crate::imports::{CredentialsCtx, CredentialsView};
use crate::limits::{MAX_HOST_RESOURCES, MAX_RANDOM, Totals};
use crate::output::Captured;

/// The store's data.
pub(crate) struct State {
    wasi: WasiCtx,
    // Before the table: see `HttpCtx`.
    http: HttpCtx,
    pub(crate) table: ResourceTable,
    pub(crate) open_files: OpenFiles,
    pub(crate) credentials: CredentialsCtx,
    pub(crate) totals: Totals,
}

impl State {
    pub(crate) fn new(
        manifest: &Manifest,
        folders: &[OpenFolder],
        credentials: CredentialsCtx,
        input: String,
        stdout: Captured,
        stderr: Captured,
    ) -> Result<Self, RunError> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HOST_RESOURCES);
        let wasi = closed_world(manifest, folders, input, stdout, stderr)?;
        Ok(Self {
            wasi,
            http: HttpCtx::new(&credentials),
            table,
            open_files: OpenFiles::default(),
            credentials,
            totals: Totals::new(manifest.limits.memory.0),
        })
    }

    pub(crate) fn credentials(&mut self) -> CredentialsView<'_> {
        CredentialsView {
            ctx: &mut self.credentials,
            table: &mut self.table,
        }
    }
}

impl State {
    /// Ends the instance, after what it had under way was cut off: so its uses are settled on the log before it ends there.
    pub(crate) async fn end(self, how: InstanceEnd) {
        let Self {
            http,
            table,
            mut credentials,
            ..
        } = self;
        let gone = http.end();
        drop(table);
        if let Some(gone) = gone {
            gone.wait().await;
        }
        credentials.end(how);
    }
}

impl HttpState for State {
    fn http(&mut self) -> HttpView<'_> {
        HttpView {
            ctx: &mut self.http,
            table: &mut self.table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Inherits nothing from this process: no variables, no arguments, no terminal, no folder, no network.
fn closed_world(
    manifest: &Manifest,
    folders: &[OpenFolder],
    input: String,
    stdout: Captured,
    stderr: Captured,
) -> Result<WasiCtx, RunError> {
    let world = &manifest.world;
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdin(MemoryInputPipe::new(Bytes::from(input)))
        .stdout(stdout)
        .stderr(stderr)
        .arg(manifest.agent.name.as_str())
        .args(&world.args)
        .wall_clock(CoarseWall)
        .monotonic_clock(CoarseMonotonic {
            start: Instant::now(),
        })
        .max_random_size(MAX_RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }));
    for (name, value) in &world.env {
        wasi.env(name.as_str(), value);
    }
    for folder in folders {
        let permissions = match folder.access {
            Access::Read => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        wasi.preopened_dir(folder.path(), &folder.guest, permissions)
            .map_err(|source| RunError::Folder {
                guest: folder.guest.clone(),
                source,
            })?;
    }
    Ok(wasi.build())
}

/// The clocks' resolution: too coarse to time a cache or a signature by.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Milliseconds since 1970.
struct CoarseWall;

impl HostWallClock for CoarseWall {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        coarse(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }
}

/// Milliseconds since the run began: nothing of the host's uptime.
struct CoarseMonotonic {
    start: Instant,
}

impl HostMonotonicClock for CoarseMonotonic {
    fn resolution(&self) -> u64 {
        nanoseconds(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanoseconds(coarse(self.start.elapsed()))
    }
}

fn coarse(time: Duration) -> Duration {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_cut_to_milliseconds() {
        assert_eq!(coarse(Duration::from_nanos(1_999_999)), Duration::from_millis(1));
        assert_eq!(
            coarse(Duration::new(7, 999_999_999)),
            Duration::new(7, 999_000_000)
        );
    }
}
