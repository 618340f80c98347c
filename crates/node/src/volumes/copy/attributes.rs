//! Extended attributes: what users set, access control lists, and the capabilities of programs.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod calls {
    #![expect(unsafe_code, reason = "extended attributes have no safe wrapper")]

    use std::ffi::CStr;

    /// `listxattr`; how many bytes there are when `names` is empty.
    pub(super) fn list(path: &CStr, names: &mut [u8]) -> isize {
        // SAFETY: the path is zero-terminated; the kernel writes at most as many bytes as the slice has.
        unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) }
    }

    /// `getxattr`; how many bytes there are when `value` is empty.
    pub(super) fn get(path: &CStr, name: &CStr, value: &mut [u8]) -> isize {
        // SAFETY: both strings are zero-terminated; the kernel writes at most as many bytes as the slice has.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
    }

    /// `setxattr`.
    pub(super) fn set(path: &CStr, name: &CStr, value: &[u8]) -> i32 {
        // SAFETY: both strings are zero-terminated, and the kernel reads exactly the slice.
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    }
}

/// Asks for the length, then for so many bytes.
fn read(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let length = usize::try_from(call(&mut [])).map_err(|_| io::Error::last_os_error())?;
    let mut bytes = vec![0; length];
    if length > 0 {
        let length = usize::try_from(call(&mut bytes)).map_err(|_| io::Error::last_os_error())?;
        bytes.truncate(length);
    }
    Ok(bytes)
}

/// Gives a file the attributes of another one; neither path ends in a link.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let names = match read(|names| calls::list(&from, names)) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        names => names?,
    };
    let names = names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    for name in names.filter(|name| travels(name)) {
        let value = match read(|value| calls::get(&from, name, value)) {
            // It was taken off meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => continue,
            value => value?,
        };
        if calls::set(&to, name, &value) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Labels of security modules and `trusted` ones belong to the host.
fn travels(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_users_travel() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, "").expect("written");
        std::fs::write(&other, "").expect("written");
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path");
        if calls::set(&path(&one), c"user.kind", b"fruit") < 0 {
            eprintln!("skipped: no attributes on this file system ({})", io::Error::last_os_error());
            return;
        }
        copy(&one, &other).expect("copied");
        assert_eq!(read(|value| calls::get(&path(&other), c"user.kind", value)).expect("there"), b"fruit");
        for (name, expected) in [(c"user.a", true), (c"security.selinux", false), (c"security.capability", true)] {
            assert_eq!(travels(name), expected, "{name:?}");
        }
    }
}
