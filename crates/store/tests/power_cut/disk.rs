//! A disk under SQLite that notes what it is told and fails on demand: SQLite's own file layer with three of its methods
//! replaced, registered as the default for this test program.
#![expect(unsafe_code, reason = "SQLite's file layer is a C interface")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Once};

use parking_lot::Mutex;
use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use crate::tape::{Image, Op, Tape};

/// How the disk fails.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `ENOSPC`.
    Full,
    /// `EROFS` or `EIO`.
    Unwritable,
    /// What was written cannot be made durable.
    Unsyncable,
}

impl Fault {
    fn of_write(self) -> Option<c_int> {
        match self {
            Fault::Full => Some(ffi::SQLITE_FULL),
            Fault::Unwritable => Some(ffi::SQLITE_IOERR_WRITE),
            Fault::Unsyncable => None,
        }
    }

    fn of_sync(self) -> Option<c_int> {
        match self {
            Fault::Full => None,
            Fault::Unwritable | Fault::Unsyncable => Some(ffi::SQLITE_IOERR_FSYNC),
        }
    }
}

#[derive(Default)]
struct Noted {
    tape: Tape,
    /// The disk works for so many operations more, then fails.
    fault: Option<(Fault, usize)>,
}

impl Noted {
    /// Counts one operation; answers how it fails.
    fn fails(&mut self) -> Option<Fault> {
        let (fault, left) = self.fault.as_mut()?;
        if *left == 0 {
            return Some(*fault);
        }
        *left -= 1;
        None
    }
}

/// One folder on the disk.
pub struct Disk {
    folder: PathBuf,
    noted: Arc<Mutex<Noted>>,
}

/// An open file: what it is called, whose it is, and the methods that do the work.
#[derive(Clone)]
struct Open {
    name: String,
    noted: Arc<Mutex<Noted>>,
    methods: Methods,
    /// Its first sync makes the folder durable too, as SQLite's own layer does for the journals it makes.
    syncs_folder: bool,
}

#[derive(Copy, Clone)]
struct Methods(&'static sqlite3_io_methods);

// SAFETY: the table is never written after it was made; SQLite calls it from any thread.
unsafe impl Send for Methods {}

type Folders = HashMap<PathBuf, Arc<Mutex<Noted>>>;

static FOLDERS: LazyLock<Mutex<Folders>> = LazyLock::new(Mutex::default);
/// The open files by their address.
static OPEN: LazyLock<Mutex<HashMap<usize, Open>>> = LazyLock::new(Mutex::default);
/// The replaced method tables, by the address of the original.
static TABLES: LazyLock<Mutex<BTreeMap<usize, Methods>>> = LazyLock::new(Mutex::default);
static REGISTER: Once = Once::new();

impl Disk {
    /// Takes note of everything SQLite does in a folder from now on.
    pub fn new(folder: &Path) -> Disk {
        REGISTER.call_once(register);
        let folder = folder.canonicalize().expect("the folder is there");
        let noted = Arc::new(Mutex::new(Noted::default()));
        FOLDERS.lock().insert(folder.clone(), noted.clone());
        Disk { folder, noted }
    }

    /// The database's path.
    pub fn database(&self) -> PathBuf {
        self.folder.join("store.db")
    }

    /// How many operations there have been.
    pub fn operations(&self) -> usize {
        self.noted.lock().tape.ops.len()
    }

    /// Fails after so many writes, truncations and syncs more.
    pub fn fail_after(&self, fault: Fault, operations: usize) {
        self.noted.lock().fault = Some((fault, operations));
    }

    /// Works again.
    pub fn mend(&self) {
        self.noted.lock().fault = None;
    }

    /// Replaces what is in the folder, and answers the tape of what was done to what was there before.
    pub fn replace(&self, make: impl FnOnce(&Tape) -> Image) {
        let mut noted = self.noted.lock();
        let image = make(&noted.tape);
        for entry in std::fs::read_dir(&self.folder).expect("readable") {
            std::fs::remove_file(entry.expect("readable").path()).expect("nobody has it open");
        }
        for (name, bytes) in &image {
            std::fs::write(self.folder.join(name), bytes).expect("writable");
        }
        noted.tape = Tape { base: image, ops: Vec::new() };
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        FOLDERS.lock().remove(&self.folder);
    }
}

fn register() {
    // SAFETY: sqlite3_vfs_find answers SQLite's own layer, which lives as long as the process, and the copy is leaked so
    // that it does too. Only one thread registers, before any database is opened by this program.
    unsafe {
        let original = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!original.is_null(), "SQLite has a file layer");
        let mut copy = *original;
        copy.pNext = std::ptr::null_mut();
        copy.zName = c"noting".as_ptr();
        copy.xOpen = Some(open);
        copy.xDelete = Some(delete);
        let copy = Box::leak(Box::new(copy));
        assert_eq!(ffi::sqlite3_vfs_register(copy, 1), ffi::SQLITE_OK);
    }
}

fn original() -> *mut sqlite3_vfs {
    // SAFETY: the name is a C string; the answer lives as long as the process.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

/// The folder's notes and the file's name, if someone takes note of it.
fn place(path: *const c_char) -> Option<(Arc<Mutex<Noted>>, String)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite passes a C string that lives for the call.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let noted = FOLDERS.lock().get(path.parent()?)?.clone();
    Some((noted, path.file_name()?.to_str()?.to_owned()))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are passed on as they came; `file` has the size that the original asks for, since the copy
    // has the same szOsFile. After success pMethods points to a table that lives as long as the process.
    unsafe {
        let open = (*original()).xOpen.expect("every layer opens files");
        let code = open(original(), path, file, flags, out);
        let Some((noted, name)) = place(path) else { return code };
        if code != ffi::SQLITE_OK || (*file).pMethods.is_null() {
            return code;
        }
        let methods = &*(*file).pMethods;
        let replaced = *TABLES
            .lock()
            .entry(std::ptr::from_ref(methods).addr())
            .or_insert_with(|| Methods(Box::leak(Box::new(replace(methods)))));
        let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
        let syncs_folder = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journal != 0;
        OPEN.lock().insert(file.addr(), Open { name, noted, methods: Methods(methods), syncs_folder });
        (*file).pMethods = replaced.0;
        code
    }
}

/// The original's methods but for those that change the file.
fn replace(methods: &sqlite3_io_methods) -> sqlite3_io_methods {
    sqlite3_io_methods {
        // No memory-mapped reads, which version 3 adds.
        iVersion: 2,
        xClose: Some(close),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        ..*methods
    }
}

fn opened(file: *mut sqlite3_file) -> Open {
    OPEN.lock().get(&file.addr()).expect("only files that were opened here have these methods").clone()
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let open = OPEN.lock().remove(&file.addr()).expect("only files that were opened here have these methods");
    // SAFETY: the original opened this file.
    unsafe { open.methods.0.xClose.expect("files can be closed")(file) }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let open = opened(file);
    let mut noted = open.noted.lock();
    if let Some(code) = noted.fails().and_then(Fault::of_write) {
        return code;
    }
    // SAFETY: the arguments are passed on as they came, and SQLite gives `length` readable bytes.
    unsafe {
        let code = open.methods.0.xWrite.expect("files can be written")(file, bytes, length, offset);
        if code == ffi::SQLITE_OK {
            let length = usize::try_from(length).expect("lengths are not negative");
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
            let offset = usize::try_from(offset).expect("offsets are not negative");
            noted.tape.ops.push((open.name, Op::Write { offset, bytes }));
        }
        code
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    let open = opened(file);
    let mut noted = open.noted.lock();
    if let Some(code) = noted.fails().and_then(Fault::of_write) {
        return code;
    }
    // SAFETY: the arguments are passed on as they came.
    let code = unsafe { open.methods.0.xTruncate.expect("files can be truncated")(file, size) };
    if code == ffi::SQLITE_OK {
        let size = usize::try_from(size).expect("sizes are not negative");
        noted.tape.ops.push((open.name, Op::Truncate { size }));
    }
    code
}

/// Only noted: the machine under the test keeps its power.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    let open = opened(file);
    let mut noted = open.noted.lock();
    if let Some(code) = noted.fails().and_then(Fault::of_sync) {
        return code;
    }
    let mut files = OPEN.lock();
    let file = files.get_mut(&file.addr()).expect("it was opened");
    let folder = std::mem::take(&mut file.syncs_folder);
    noted.tape.ops.push((open.name, Op::Sync { folder }));
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    let place = place(path);
    let noted = place.as_ref().map(|(noted, name)| (noted.lock(), name));
    // SAFETY: the arguments are passed on as they came.
    let code = unsafe { (*original()).xDelete.expect("every layer deletes files")(original(), path, sync_folder) };
    if let (Some((mut noted, name)), ffi::SQLITE_OK) = (noted, code) {
        noted.tape.ops.push((name.clone(), Op::Delete { synced: sync_folder != 0 }));
    }
    code
}
