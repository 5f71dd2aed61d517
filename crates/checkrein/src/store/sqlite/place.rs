//! Which file a store is: its canonical path, and whether that is a place where a store can be.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::store::StoreError;

/// What a store's URL says, e.g. `sqlite:checkrein.db`.
///
/// # Errors
/// It is no URL of a SQLite store; the error says what to write.
pub fn path_of(url: &str) -> Result<PathBuf, StoreError> {
    let bad = |text: String| Err(StoreError::NotCommitted(text));
    let Some(rest) = url.strip_prefix("sqlite:") else {
        let shown = quotable(url);
        return bad(format!("`{}` is not a store in a file; write `sqlite:PATH`", shown.escape_debug()));
    };
    // `sqlite:///abs/path` as SQLAlchemy and others write it.
    let path = rest.strip_prefix("//").map_or(rest, |rest| rest.strip_prefix("localhost").unwrap_or(rest));
    match path {
        "" => bad("`sqlite:` names no file; write `sqlite:PATH`".to_owned()),
        ":memory:" => bad(
            "`sqlite::memory:` would be forgotten at the end and shared with nobody; leave `store` out for memory, or name a file"
                .to_owned(),
        ),
        path if path.contains('\0') => bad("the path contains a NUL byte".to_owned()),
        // Nothing of it is repeated: it may have a password in it.
        path if path.contains("://") => bad(
            "the path after `sqlite:` is the URL of something else; write `sqlite:PATH` for a file, or the URL alone"
                .to_owned(),
        ),
        path if path.contains('?') => {
            bad(format!("`{}` has options; a store takes none", url.escape_debug()))
        }
        path => Ok(PathBuf::from(path)),
    }
}

/// What may be repeated of a text that may be a URL with a password in it.
pub fn quotable(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if !scheme.contains('@') => format!("{scheme}://..."),
        None if !url.contains('@') => url.to_owned(),
        _ => "...".to_owned(),
    }
}

/// The canonical path of a store's file, which need not be there; its directory has to be.
pub(super) fn locate(path: &Path) -> Result<PathBuf, StoreError> {
    let error = |what: String| StoreError::NotCommitted(format!("`{}`: {what}", path.display()));
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent
        .canonicalize()
        .map_err(|why| error(format!("its directory `{}` cannot be used: {why}", parent.display())))?;
    refuse_network(&parent).map_err(error)?;
    let name = path.file_name().ok_or_else(|| error("it names no file".to_owned()))?;
    let path = parent.join(name);
    // A link leads to the file whose name counts: the log and the locks lie beside that one.
    Ok(path.canonicalize().unwrap_or(path))
}

/// The canonical path of a store's file, made with mode 0600 if it does not exist.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, StoreError> {
    let error = |what: String| StoreError::NotCommitted(format!("`{}`: {what}", path.display()));
    let path = locate(path)?;
    // A file that exists is only asked about: closing a handle on it would end the locks that SQLite has on it, if this
    // process has it open already.
    match std::fs::metadata(&path) {
        Ok(about) if !about.is_file() => return Err(error("it is not a file".to_owned())),
        // The log and the locks lie beside a name: two names would be two stores in one file.
        Ok(about) if about.nlink() > 1 => {
            return Err(error("it has a second name (a hard link); remove one of the two".to_owned()));
        }
        Ok(_) if is_mount_point(&path) => {
            return Err(error("it is mounted by itself; mount the directory that it lies in".to_owned()));
        }
        Ok(about)
            if about.len() == 0
                && std::fs::metadata(beside(&path, "-wal")).is_ok_and(|wal| wal.len() > 0) =>
        {
            return Err(error(
                "it is empty and its log is not: the file was removed or replaced; put it back, or remove the log".to_owned(),
            ));
        }
        Ok(_) => {
            let may_write = rustix::fs::access(&path, Access::READ_OK | Access::WRITE_OK);
            may_write.map_err(|why| error(format!("it cannot be written: {why}")))?;
        }
        Err(_) => {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error(format!("it cannot be made: {why}")));
                }
                _ => {}
            }
        }
    }
    Ok(path)
}

/// A file beside another one.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Whether the file itself is a mount point, as containers make them: then its log would lie elsewhere.
#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let name = path.to_string_lossy().replace(' ', "\\040");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*name))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_path: &Path) -> bool {
    false
}

/// What one file is, whatever its names.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

/// The name of the file system that a file lies on, or its number.
#[cfg(target_os = "linux")]
const NETWORK: [(u32, &str); 9] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
];
#[cfg(target_os = "linux")]
pub(super) fn file_system(path: &Path) -> String {
    const LOCAL: [(u32, &str); 8] = [
        (0xEF53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683E, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794C_7630, "overlayfs"),
        (0x2FC1_2FC1, "zfs"),
        (0xF2F5_2010, "f2fs"),
        (0x6573_5546, "fuse"),
    ];
    let Ok(about) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    let kind = about.f_type as u32;
    match LOCAL.iter().chain(&NETWORK).find(|(number, _)| *number == kind) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{kind:#x}"),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn file_system(_path: &Path) -> String {
    "unknown".to_owned()
}

/// File systems on other machines: their locks and their syncs do not hold what a store needs.
#[cfg(target_os = "linux")]
fn refuse_network(directory: &Path) -> Result<(), String> {
    let Ok(about) = rustix::fs::statfs(directory) else { return Ok(()) };
    // The field's type differs between machines; the numbers all have 32 bits.
    let kind = about.f_type as u32;
    match NETWORK.iter().find(|(number, _)| *number == kind) {
        Some((_, name)) => Err(format!("it lies on a network file system ({name}); put it on a local disk")),
        None => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_directory: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, path) in [
            ("sqlite:checkrein.db", "checkrein.db"),
            ("sqlite:/var/lib/x.db", "/var/lib/x.db"),
            ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
            ("sqlite:a b/ü.db", "a b/ü.db"),
        ] {
            assert_eq!(path_of(url), Ok(PathBuf::from(path)), "{url}");
        }
        for url in [
            "",
            "checkrein.db",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:x.db?mode=ro",
            "redis://h",
            "sqlite:a\0b",
        ] {
            assert!(path_of(url).is_err(), "{url}");
        }
        for url in ["sqlite:redis://:secret@h", "sqlite://redis://:secret@h", "sqlite:a/redis://:secret@h?x"]
        {
            let Err(StoreError::NotCommitted(said)) = path_of(url) else { panic!("{url}") };
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
