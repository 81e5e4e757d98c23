//! Files below one directory, and nothing else.
//!
//! Each request looks the directory up by its path, so it may be replaced, for example by switching a symbolic link, or
//! be missing for a while.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{self, Path, PathBuf};
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::LazyLock;

use cap_fs_ext::OpenOptionsSyncExt;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, ReadDir};

use super::cache::Cache;
use super::date::Now;
use super::media_type::MediaType;
use super::small_file::{SMALL, SmallFile};
use super::status::Status;
use super::target::{Target, as_path};
use super::version::Version;
use crate::socket::is_out_of_descriptors;

/// A directory is served as the first of these files that it contains.
const INDEXES: [&str; 2] = ["index.html", "index.htm"];

/// A directory whose files can be opened, but no files outside it.
#[derive(Debug)]
pub(super) struct Files {
    /// An absolute path.
    directory: PathBuf,
    cache: Cache,
}

/// What was found for a target.
pub(super) enum Found {
    /// A regular file that is in memory.
    Small(Arc<SmallFile>),
    /// Another regular file.
    Large(File, Version, MediaType),
    /// A directory without an index.
    Directory(Box<ReadDir>),
    /// A directory whose name was given without a trailing slash.
    SlashMissing,
}

impl Files {
    pub(super) fn new(directory: &Path) -> io::Result<Files> {
        let files = Files { directory: path::absolute(directory)?, cache: Cache::default() };
        files.check()?;
        Ok(files)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Succeeds if there is such a directory and it can be read.
    pub(super) fn check(&self) -> io::Result<()> {
        // Opening it needs less permission than reading it.
        Root::open(&self.directory)?.handle.entries().map(drop)
    }

    pub(super) fn find(&self, target: &Target<'_>, now: Now) -> Result<Found, Status> {
        if let Some(file) = self.cache.get(target.path(), now) {
            return Ok(Found::Small(file));
        }
        // The directory itself may be back a moment later.
        let root = Root::open(&self.directory).map_err(|_| Status::ServiceUnavailable)?;
        if !target.is_directory() {
            let relative = target.relative();
            if relative.is_empty() {
                return Ok(Found::SlashMissing); // For example `/directory/..`.
            }
            return match root.find(relative).map_err(|error| status(&error))? {
                Opened::File(file, metadata) => self.read(file, &metadata, relative, Some(target.path()), now),
                Opened::Directory => Ok(Found::SlashMissing),
            };
        }
        // Most requests for directories are answered with an index, so the directory itself is not looked at first.
        for index in INDEXES {
            let relative = target.below(index);
            match root.find(&relative) {
                Ok(Opened::File(file, metadata)) => {
                    // The second name counts only while the first one does not exist.
                    let key = (index == INDEXES[0]).then_some(target.path());
                    return self.read(file, &metadata, &relative, key, now);
                }
                Ok(Opened::Directory) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(status(&error)),
            }
        }
        let directory = root.read_directory(target.relative()).map_err(|error| status(&error))?;
        Ok(Found::Directory(Box::new(directory)))
    }

    /// Reads a file if it is small, and keeps it for requests with the same path, `key`.
    fn read(
        &self,
        file: File,
        metadata: &Metadata,
        relative: &[u8],
        key: Option<&[u8]>,
        now: Now,
    ) -> Result<Found, Status> {
        let media_type = MediaType::of(relative);
        if metadata.len() > SMALL {
            return Ok(Found::Large(file, Version::of(metadata), media_type));
        }
        let path = self.directory.join(as_path(relative).ok_or(Status::NotFound)?);
        let depth = relative.iter().filter(|&&byte| byte == b'/').count();
        let file = SmallFile::read(path, depth, file, metadata, media_type, now);
        let file = Arc::new(file.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Status::ServiceUnavailable, // It is being rewritten.
            _ => Status::InternalServerError,
        })?);
        if let Some(key) = key {
            self.cache.put(key, &file, now);
        }
        Ok(Found::Small(file))
    }
}

/// The served directory, opened for one request.
struct Root<'files> {
    directory: &'files Path,
    handle: Dir,
}

enum Opened {
    File(File, Metadata),
    Directory,
}

impl<'files> Root<'files> {
    fn open(directory: &'files Path) -> io::Result<Root<'files>> {
        Ok(Root { directory, handle: Dir::open_ambient_dir(directory, ambient_authority())? })
    }

    fn find(&self, path: &[u8]) -> io::Result<Opened> {
        self.within(as_path(path).ok_or(ErrorKind::NotFound)?, |path| open(&self.handle, path))
    }

    fn read_directory(&self, path: &[u8]) -> io::Result<ReadDir> {
        let path = if path.is_empty() { Path::new(".") } else { as_path(path).ok_or(ErrorKind::NotFound)? };
        self.within(path, |path| self.handle.read_dir(path))
    }

    /// Opens a path. If an absolute symbolic link leads out of the directory and back into it, the path is opened again
    /// with its links resolved.
    fn within<T>(&self, path: &Path, open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match open(path) {
            Err(error) if leads_outside(&error) => open(&self.resolve(path)?),
            opened => opened,
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let (directory, place) = (fs::canonicalize(self.directory)?, fs::canonicalize(self.directory.join(path))?);
        let path = place.strip_prefix(directory).map_err(|_| ErrorKind::NotFound)?;
        Ok(Path::new(".").join(path))
    }
}

/// Opens a regular file and nothing else: opening and closing a FIFO ends the program that writes to it, and opening a
/// device may do anything. So the file is found first, by a handle that cannot be read from. If it is a regular file,
/// that very file is opened, through the link that the system has for each handle.
#[cfg(target_os = "linux")]
fn open(root: &Dir, path: &Path) -> io::Result<Opened> {
    use cap_std::fs::OpenOptionsExt;
    use rustix::fs::{Mode, OFlags, openat};
    use rustix::path::DecInt;

    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::PATH.bits() as i32);
    let found = root.open_with(path, &options)?.into_std();
    let metadata = found.metadata()?;
    if metadata.is_dir() {
        return Ok(Opened::Directory);
    }
    if !metadata.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    match &*HANDLES {
        Some(handles) => {
            let file = openat(handles, DecInt::from_fd(&found), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            Ok(Opened::File(file.into(), metadata))
        }
        None => open_if_regular(root, path),
    }
}

/// Where the system has a link for each handle of this process. None if there is no `/proc`.
#[cfg(target_os = "linux")]
static HANDLES: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/fd").ok());

#[cfg(not(target_os = "linux"))]
use open_if_regular as open;

/// Opens a regular file. Whatever takes its place just before that is opened instead, but without waiting.
fn open_if_regular(root: &Dir, path: &Path) -> io::Result<Opened> {
    let metadata = root.metadata(path)?;
    if metadata.is_dir() {
        return Ok(Opened::Directory);
    }
    if !metadata.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let mut options = OpenOptions::new();
    options.read(true).nonblock(cfg!(unix));
    let file = root.open_with(path, &options)?.into_std();
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(Opened::File(file, metadata)) } else { Err(ErrorKind::NotFound.into()) }
}

/// The status for an error in opening a file or directory.
pub(super) fn status(error: &io::Error) -> Status {
    match error.kind() {
        _ if leads_outside(error) => Status::NotFound,
        _ if is_out_of_descriptors(error) => Status::ServiceUnavailable,
        ErrorKind::OutOfMemory | ErrorKind::WouldBlock => Status::ServiceUnavailable,
        ErrorKind::PermissionDenied => Status::Forbidden,
        _ => Status::NotFound,
    }
}

/// `cap-std` reports that with an error of its own, which has no system error number.
fn leads_outside(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Tests both ways to open, even where the second one is not needed.
    #[test]
    #[cfg(unix)]
    fn only_what_is_a_regular_file_is_opened() {
        let directory = std::env::temp_dir().join(format!("worker-http-files-{}", std::process::id()));
        fs::create_dir_all(directory.join("directory")).unwrap();
        fs::write(directory.join("file"), "content").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
        let root = Dir::open_ambient_dir(&directory, ambient_authority()).unwrap();
        for open in [open, open_if_regular] {
            let open = |name: &str| open(&root, Path::new(name));
            assert!(matches!(open("directory"), Ok(Opened::Directory)));
            let Ok(Opened::File(file, metadata)) = open("file") else { panic!("it is a file") };
            assert_eq!((io::read_to_string(file).unwrap().as_str(), metadata.len()), ("content", 7));
            for name in ["socket", "missing"] {
                assert_eq!(open(name).map(|_| ()).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
            }
        }
        drop(socket);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn each_reason_for_not_opening_has_its_status() {
        for (error, wanted) in [
            (ErrorKind::NotFound.into(), Status::NotFound),
            (ErrorKind::NotADirectory.into(), Status::NotFound),
            (ErrorKind::InvalidFilename.into(), Status::NotFound),
            (io::Error::new(ErrorKind::PermissionDenied, "it leads outside"), Status::NotFound),
            (ErrorKind::OutOfMemory.into(), Status::ServiceUnavailable),
        ] {
            assert_eq!(status(&error), wanted, "{error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn the_system_s_own_errors_are_told_apart() {
        // EACCES, ENFILE, EMFILE, ENXIO.
        for (number, wanted) in [
            (13, Status::Forbidden),
            (23, Status::ServiceUnavailable),
            (24, Status::ServiceUnavailable),
            (6, Status::NotFound),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(status(&error), wanted, "{error}");
        }
    }
}
