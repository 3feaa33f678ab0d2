//! Where wasmtime-wasi leaves it to the agent how much of the host it takes: open files, listings of folders, and what one write
//! buffers. Everything else about files is wasmtime-wasi's: paths, permissions, reading and writing.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use cap_std::fs::{Dir, DirEntry, FileTypeExt as _, ReadDir};
use claviger_core::audit::StopLimit;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntry, ErrorCode, Host as _, HostDescriptor as _, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    Host as _, HostInputStream, HostOutputStream, StreamError as WitStreamError,
};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError, StreamResult};

use crate::blocking::blocking;
use crate::limits::{MAX_OPEN_FILES, Stop};
use crate::state::State;

/// The instances to bound, as this release of wasmtime-wasi names them: another name would bound nothing, which the tests through a
/// guest would notice.
const TYPES: &str = "wasi:filesystem/types@0.2.12";
const STREAMS: &str = "wasi:io/streams@0.2.12";

/// Entries of a folder that are read in one go and kept until the agent asks for them.
const BATCH: usize = 64;

/// Files, folders and listings that one instance has open, each a file descriptor of this process. A file is open until its descriptor
/// and all its streams are gone: each of them holds it.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    // Invariant: what is at a place in the instance's resource table, and which file it holds open. Folders that were there from the
    // start are not among them.
    held: BTreeMap<u32, u64>,
    // Invariant: how many places hold each file, at least one.
    holders: BTreeMap<u64, usize>,
    // The number of the next file: never used again.
    next: u64,
}

impl OpenFiles {
    /// Whether there is room for one more.
    fn admit(&self) -> Result<(), Stop> {
        if self.holders.len() < MAX_OPEN_FILES {
            Ok(())
        } else {
            Err(Stop(StopLimit::Handles))
        }
    }

    /// What is at `place` is a file that was just opened.
    fn opened(&mut self, place: u32) {
        let file = self.next;
        self.next += 1;
        self.hold(place, file);
    }

    /// What is at `place` holds the file that `of` has open.
    fn shared(&mut self, place: u32, of: u32) {
        if let Some(file) = self.held.get(&of).copied() {
            self.hold(place, file);
        }
    }

    fn hold(&mut self, place: u32, file: u64) {
        self.held.insert(place, file);
        *self.holders.entry(file).or_default() += 1;
    }

    /// What was at `place` is gone.
    fn gone(&mut self, place: u32) {
        let Some(file) = self.held.remove(&place) else {
            return;
        };
        if let Entry::Occupied(mut holders) = self.holders.entry(file) {
            *holders.get_mut() -= 1;
            if *holders.get() == 0 {
                holders.remove();
            }
        }
    }
}

/// A folder as it is listed: wasmtime-wasi would keep all of it in memory, for each of any number of listings.
#[derive(Debug)]
struct Listing {
    // None at the end, and while a batch is read.
    rest: Option<ReadDir>,
    batch: VecDeque<Result<DirectoryEntry, ErrorCode>>,
}

/// Puts the bounds over what is in the linker already.
pub(crate) fn bound(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, State>, (folder, links, path, how, flags)| {
            Box::new(async move { Ok((open_at(store.data_mut(), folder, links, path, how, flags).await?,)) })
        },
    )?;
    types.resource(
        "descriptor",
        ResourceType::host::<Descriptor>(),
        |mut store, place| store.data_mut().close::<Descriptor>(place),
    )?;
    types.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, State>, (folder,)| {
            Box::new(async move { Ok((list(store.data_mut(), folder).await?,)) })
        },
    )?;
    types.resource(
        "directory-entry-stream",
        ResourceType::host::<Listing>(),
        |mut store, place| store.data_mut().close::<Listing>(place),
    )?;
    types.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: StoreContextMut<'_, State>, (listing,)| {
            Box::new(async move { Ok((next(store.data_mut(), &listing).await?,)) })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, State>, (file, from): (Resource<Descriptor>, u64)| {
            let of = file.rep();
            let stream = store.data_mut().filesystem().read_via_stream(file, from);
            Ok((streamed(store.data_mut(), stream, of)?,))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, State>, (file, from): (Resource<Descriptor>, u64)| {
            let of = file.rep();
            let stream = store.data_mut().filesystem().write_via_stream(file, from);
            Ok((streamed(store.data_mut(), stream, of)?,))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, State>, (file,): (Resource<Descriptor>,)| {
            let of = file.rep();
            let stream = store.data_mut().filesystem().append_via_stream(file);
            Ok((streamed(store.data_mut(), stream, of)?,))
        },
    )?;
    let mut streams = linker.instance(STREAMS)?;
    streams.resource_async(
        "input-stream",
        ResourceType::host::<DynInputStream>(),
        |mut store, place| {
            Box::new(async move {
                let state = store.data_mut();
                HostInputStream::drop(&mut state.table, Resource::new_own(place)).await?;
                state.open_files.gone(place);
                Ok(())
            })
        },
    )?;
    streams.resource_async(
        "output-stream",
        ResourceType::host::<DynOutputStream>(),
        |mut store, place| {
            Box::new(async move {
                let state = store.data_mut();
                HostOutputStream::drop(&mut state.table, Resource::new_own(place)).await?;
                state.open_files.gone(place);
                Ok(())
            })
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.write",
        |mut store: StoreContextMut<'_, State>, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            let written = write(store.data_mut(), &stream, bytes);
            Ok((answered(store.data_mut(), written)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

impl State {
    fn close<T: Send + 'static>(&mut self, place: u32) -> wasmtime::Result<()> {
        self.table.delete(Resource::<T>::new_own(place))?;
        self.open_files.gone(place);
        Ok(())
    }
}

async fn open_at(
    state: &mut State,
    folder: Resource<Descriptor>,
    links: PathFlags,
    path: String,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> wasmtime::Result<Result<Resource<Descriptor>, ErrorCode>> {
    state.open_files.admit()?;
    let opened = state.filesystem().open_at(folder, links, path, how, flags).await;
    if let Ok(file) = &opened {
        state.open_files.opened(file.rep());
    }
    coded(state, opened)
}

/// A stream of the file at `of`, which it holds open from now on.
fn streamed<S: 'static>(
    state: &mut State,
    stream: FsResult<Resource<S>>,
    of: u32,
) -> wasmtime::Result<Result<Resource<S>, ErrorCode>> {
    if let Ok(stream) = &stream {
        state.open_files.shared(stream.rep(), of);
    }
    coded(state, stream)
}

async fn list(
    state: &mut State,
    folder: Resource<Descriptor>,
) -> wasmtime::Result<Result<Resource<Listing>, ErrorCode>> {
    state.open_files.admit()?;
    let folder = match state.table.get(&folder)? {
        Descriptor::Dir(folder) => folder.dir.clone(),
        Descriptor::File(_) => return Ok(Err(ErrorCode::NotDirectory)),
    };
    let opened = blocking(move || Dir::from_std_file(folder.try_clone()?).entries()).await?;
    let listing = opened.map_err(FsError::from).and_then(|rest| {
        Ok(state.table.push(Listing {
            rest: Some(rest),
            batch: VecDeque::new(),
        })?)
    });
    if let Ok(listing) = &listing {
        state.open_files.opened(listing.rep());
    }
    coded(state, listing)
}

async fn next(
    state: &mut State,
    listing: &Resource<Listing>,
) -> wasmtime::Result<Result<Option<DirectoryEntry>, ErrorCode>> {
    let listing = state.table.get_mut(listing)?;
    if listing.batch.is_empty()
        && let Some(rest) = listing.rest.take()
    {
        *listing = blocking(move || Listing::read(rest)).await?;
    }
    Ok(listing.batch.pop_front().transpose())
}

impl Listing {
    /// Reads the next entries. After an error there are none.
    fn read(mut rest: ReadDir) -> Self {
        let mut batch = VecDeque::new();
        while batch.len() < BATCH {
            match rest.next() {
                Some(Ok(entry)) => batch.push_back(described(&entry)),
                Some(Err(error)) => {
                    batch.push_back(Err(ErrorCode::from(error)));
                    return Self { rest: None, batch };
                }
                None => return Self { rest: None, batch },
            }
        }
        Self {
            rest: Some(rest),
            batch,
        }
    }
}

fn described(entry: &DirEntry) -> Result<DirectoryEntry, ErrorCode> {
    let name = entry
        .file_name()
        .into_string()
        .map_err(|_| ErrorCode::IllegalByteSequence)?;
    let mut kind = entry.file_type().map_err(ErrorCode::from)?;
    if !(kind.is_dir() || kind.is_file() || kind.is_symlink()) {
        // Some file systems do not say it in the listing.
        kind = entry.metadata().map_err(ErrorCode::from)?.file_type();
    }
    let type_ = if kind.is_dir() {
        DescriptorType::Directory
    } else if kind.is_file() {
        DescriptorType::RegularFile
    } else if kind.is_symlink() {
        DescriptorType::SymbolicLink
    } else if kind.is_fifo() {
        DescriptorType::Fifo
    } else if kind.is_block_device() {
        DescriptorType::BlockDevice
    } else if kind.is_char_device() {
        DescriptorType::CharacterDevice
    } else {
        DescriptorType::Unknown
    };
    Ok(DirectoryEntry { type_, name })
}

/// Writes what `check-write` allows and no more: what is written to a file is in memory until a thread has done it.
fn write(state: &mut State, stream: &Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
    let stream = state.table.get_mut(stream)?;
    if bytes.len() > stream.check_write()? {
        return Err(StreamError::trap("more was written than `check-write` allows"));
    }
    stream.write(bytes.into())
}

fn answered(state: &mut State, written: StreamResult<()>) -> wasmtime::Result<Result<(), WitStreamError>> {
    match written {
        Ok(()) => Ok(Ok(())),
        Err(error) => state.table.convert_stream_error(error).map(Err),
    }
}

fn coded<T>(state: &mut State, result: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => state.filesystem().convert_error_code(error).map(Err),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_file_is_open_until_nothing_holds_it() {
        let mut open = OpenFiles::default();
        for place in 0..64 {
            open.admit().unwrap();
            open.opened(place);
        }
        open.shared(100, 0);
        open.shared(101, 0);
        for place in [0, 100] {
            open.gone(place);
            assert!(open.admit().is_err(), "{place}: a stream holds the file still");
        }
        open.gone(101);
        open.admit().unwrap();
        // What holds no file, such as stdout, changes nothing.
        open.shared(102, 999);
        open.gone(102);
        open.gone(101);
        assert_eq!(open.holders.len(), 63);
    }

    #[test]
    fn a_listing_keeps_a_batch_whatever_the_folder_holds() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..3 * BATCH - 1 {
            std::fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
        let mut names = BTreeSet::new();
        let mut rest = Some(dir.entries().unwrap());
        let mut batches = Vec::new();
        while let Some(open) = rest {
            let listing = Listing::read(open);
            batches.push(listing.batch.len());
            names.extend(listing.batch.into_iter().map(|entry| entry.unwrap().name));
            rest = listing.rest;
        }
        assert_eq!(batches, [BATCH, BATCH, BATCH - 1]);
        assert_eq!(names.len(), 3 * BATCH - 1, "each once");
    }
}
