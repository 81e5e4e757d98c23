//! Files below one folder, and nothing else.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cap_fs_ext::{OpenOptionsMaybeDirExt, OpenOptionsSyncExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, ReadDir};

use super::answer::Status;
use super::target::{Target, as_path};
use crate::quit::is_out_of_descriptors;

/// What stands for a folder, in this order.
const INDEXES: [&str; 2] = ["index.html", "index.htm"];

/// How much longer a path may get by the name of an index.
pub(super) const INDEX_ROOM: usize = "/index.html".len();

/// A folder whose files can be opened, but none outside of it.
#[derive(Debug)]
pub(super) struct Files {
    folder: Dir,
    /// Where the folder is, with all symbolic links resolved.
    place: PathBuf,
    options: OpenOptions,
}

/// What a target stands for.
#[cfg_attr(windows, expect(clippy::large_enum_variant, reason = "there is one at a time, and it is not moved around"))]
pub(super) enum Found {
    /// A regular file.
    File(File, Metadata),
    /// The index of a folder, and its name.
    Index(File, Metadata, &'static str),
    /// A folder without an index.
    Folder(ReadDir),
    /// A folder, but its name was given without a slash at the end.
    SlashMissing,
}

enum Opened {
    File(File, Metadata),
    Folder,
}

impl Files {
    pub(super) fn new(folder: &Path) -> io::Result<Files> {
        let place = fs::canonicalize(folder)?;
        let folder = Dir::open_ambient_dir(&place, ambient_authority())?;
        folder.entries()?; // To open a folder needs less permission than to read it.
        let mut options = OpenOptions::new();
        // Without waiting: to open a FIFO for reading blocks until somebody writes. On Windows folders need to be
        // asked for, too.
        options.read(true).nonblock(cfg!(unix)).maybe_dir(true);
        Ok(Files { folder, place, options })
    }

    pub(super) fn find(&self, target: &Target<'_>) -> io::Result<Found> {
        if target.folder {
            return self.find_folder(&target.path);
        }
        if target.path.is_empty() {
            return Ok(Found::SlashMissing); // For example `/folder/..`.
        }
        Ok(match self.open(&target.path)? {
            Opened::File(file, metadata) => Found::File(file, metadata),
            Opened::Folder => Found::SlashMissing,
        })
    }

    /// An index is opened without a look at the folder before: most requests for folders end here.
    fn find_folder(&self, folder: &[u8]) -> io::Result<Found> {
        for index in INDEXES {
            let mut path = folder.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(index.as_bytes());
            match self.open(&path) {
                Ok(Opened::File(file, metadata)) => return Ok(Found::Index(file, metadata, index)),
                Ok(Opened::Folder) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let path = if folder.is_empty() { Path::new(".") } else { as_path(folder).ok_or(ErrorKind::NotFound)? };
        self.within(path, |path| self.folder.read_dir(path)).map(Found::Folder)
    }

    fn open(&self, path: &[u8]) -> io::Result<Opened> {
        let path = as_path(path).ok_or(ErrorKind::NotFound)?;
        let file = self.within(path, |path| self.folder.open_with(path, &self.options))?.into_std();
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            Ok(Opened::Folder)
        } else if metadata.is_file() {
            Ok(Opened::File(file, metadata))
        } else {
            Err(ErrorKind::NotFound.into()) // A device, a FIFO, a socket.
        }
    }

    /// Opens a path. If that leads outside by an absolute symbolic link, it may come back inside: then the path is
    /// opened again without links.
    fn within<T>(&self, path: &Path, open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match open(path) {
            Err(error) if leads_outside(&error) => open(&self.resolve(path)?),
            opened => opened,
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let place = fs::canonicalize(self.place.join(path))?;
        let path = place.strip_prefix(&self.place).map_err(|_| ErrorKind::NotFound)?;
        Ok(Path::new(".").join(path))
    }
}

/// The status that says why something could not be opened.
pub(super) fn status(error: &io::Error) -> Status {
    match error.kind() {
        _ if leads_outside(error) => Status::NotFound,
        _ if is_out_of_descriptors(error) => Status::ServiceUnavailable,
        ErrorKind::OutOfMemory | ErrorKind::WouldBlock => Status::ServiceUnavailable,
        ErrorKind::PermissionDenied => Status::Forbidden,
        _ => Status::NotFound,
    }
}

/// This is how `cap-std` says it: not with an error of the system.
fn leads_outside(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

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
