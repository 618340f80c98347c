//! Finds users and groups in an image's `/etc/passwd` and `/etc/group`, without asking the host's name service.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// `user[:group]`, names or numbers, as images write it.
    pub(crate) user: &'a str,
    /// Group that wins over the user's.
    pub(crate) group: Option<u32>,
    /// Leaves out groups that only `/etc/group` gives.
    pub(crate) strict_groups: bool,
}

/// Files larger than this are not user databases.
const MAX_FILE: u64 = 4 << 20;

/// Finds the user in the texts of `/etc/passwd` and `/etc/group`.
pub(crate) fn resolve(wanted: &Wanted<'_>, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, group_name) = match wanted.user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted.user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4 && (fields[0] == user || number.is_some_and(|number| fields[2].parse() == Ok(number)))
    });
    let mut identity = Identity::default();
    let mut name = None;
    match (&entry, number) {
        (Some(fields), _) => {
            identity.uid = fields[2].parse().map_err(|_| format!("user {user} has no number in /etc/passwd"))?;
            identity.gid = fields[3].parse().map_err(|_| format!("user {user} has no group in /etc/passwd"))?;
            identity.home = fields.get(5).filter(|home| !home.is_empty()).map(|home| (*home).to_owned());
            name = Some(fields[0]);
        }
        (None, Some(number)) => identity.uid = number,
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    }
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 3);
    if let Some(wanted_group) = group_name {
        identity.gid = match wanted_group.parse() {
            Ok(number) => number,
            Err(_) => groups()
                .find(|fields| fields[0] == wanted_group)
                .and_then(|fields| fields[2].parse().ok())
                .ok_or_else(|| format!("unable to find group {wanted_group}: no matching entries in group file"))?,
        };
    }
    if let Some(gid) = wanted.group {
        identity.gid = gid;
    }
    if let (Some(name), false) = (name, wanted.strict_groups) {
        identity.groups = groups()
            .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name)))
            .filter_map(|fields| fields[2].parse().ok())
            .filter(|gid| *gid != identity.gid)
            .collect();
    }
    Ok(identity)
}

/// Reads a file as a container standing on these layers (topmost first) would see it. `None` when it is not there.
pub(crate) fn read_file(layers: &[PathBuf], path: &str) -> io::Result<Option<String>> {
    let mut path = PathBuf::from(path);
    'links: for _ in 0..16 {
        let mut prefix = PathBuf::new();
        let mut candidates: Vec<&PathBuf> = layers.iter().collect();
        let components: Vec<_> = path
            .components()
            .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        for (index, component) in components.iter().enumerate() {
            prefix.push(component);
            let mut folders = Vec::new();
            for layer in candidates {
                let place = layer.join(&prefix);
                let metadata = match fs::symlink_metadata(&place) {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                    break;
                }
                if metadata.is_dir() {
                    folders.push(layer);
                    if is_opaque(&place) {
                        break;
                    }
                    continue;
                }
                if !folders.is_empty() {
                    break;
                }
                if metadata.is_symlink() {
                    let rest: PathBuf = components[index + 1..].iter().collect();
                    let target = fs::read_link(&place)?;
                    let base = if target.is_absolute() {
                        PathBuf::new()
                    } else {
                        prefix.parent().unwrap_or(Path::new("")).to_path_buf()
                    };
                    path = base.join(target.strip_prefix("/").unwrap_or(&target)).join(rest);
                    path = tidy(&path);
                    continue 'links;
                }
                if index + 1 < components.len() || !metadata.is_file() {
                    return Ok(None);
                }
                let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&place)?;
                let mut bytes = Vec::new();
                file.take(MAX_FILE).read_to_end(&mut bytes)?;
                return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
            }
            candidates = folders;
        }
        return Ok(None);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "too many links"))
}

fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => tidy.push(name),
            Component::ParentDir => {
                tidy.pop();
            }
            _ => {}
        }
    }
    tidy
}

fn is_opaque(folder: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    let mut value = [0_u8; 1];
    #[expect(unsafe_code, reason = "lgetxattr has no safe wrapper")]
    // SAFETY: both names are zero-terminated; the kernel writes at most one byte into `value`, which lives until the call returns.
    let count =
        unsafe { libc::lgetxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), 1) };
    count == 1 && value[0] == b'y'
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\nmore:x:41:web\n";

    #[track_caller]
    fn check(user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let result = resolve(&Wanted { user, ..Wanted::default() }, PASSWD, GROUP);
        let result = result.as_ref().map(|found| (found.uid, found.gid, &found.groups[..])).map_err(String::as_str);
        assert_eq!(result, expected, "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", Ok((0, 0, &[])));
        check("0", Ok((0, 0, &[])));
        check("web", Ok((33, 34, &[40, 41])));
        check("33", Ok((33, 34, &[40, 41])));
        check("1000", Ok((1000, 0, &[])));
        check("1000:2000", Ok((1000, 2000, &[])));
        check("web:logs", Ok((33, 40, &[41])));
        check("nobody", Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", Err("unable to find group none: no matching entries in group file"));
    }

    #[test]
    fn strict_leaves_out_the_images_groups() {
        let wanted = Wanted { user: "web", group: Some(7), strict_groups: true };
        let found = resolve(&wanted, PASSWD, GROUP).expect("it is there");
        assert_eq!((found.gid, found.groups, found.home.as_deref()), (7, Vec::new(), Some("/srv")));
    }

    #[test]
    fn files_are_found_through_layers_and_links() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (top, bottom) = (folder.path().join("top"), folder.path().join("bottom"));
        fs::create_dir_all(top.join("etc")).expect("it can be made");
        fs::create_dir_all(bottom.join("usr/etc")).expect("it can be made");
        fs::create_dir_all(bottom.join("etc")).expect("it can be made");
        fs::write(bottom.join("usr/etc/passwd"), "deep").expect("it can be written");
        std::os::unix::fs::symlink("../../usr/etc/passwd", bottom.join("etc/passwd")).expect("it can be made");
        let layers = [top, bottom];
        assert_eq!(read_file(&layers, "etc/passwd").expect("it can be read").as_deref(), Some("deep"));
        assert_eq!(read_file(&layers, "etc/group").expect("it can be read"), None);
    }
}
