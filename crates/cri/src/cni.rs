//! The pod's network stays kobune's: its namespace is handed over to the other runtime by a CNI plug-in.
//!
//! CRI has no word for a network namespace that is there already: the runtime makes one for every sandbox and has CNI plug-ins
//! fill it. kobune writes the runtime a configuration with one plug-in, which is kobune itself under another name. When the
//! runtime calls it, it mounts the namespace that kobune made for the pod over the runtime's empty one, and answers with the
//! addresses that kobune gave. So policies, Services, host ports, bandwidth and port forwarding are the same as with the
//! runtime built in, and whatever makes kobune's pod networks serves here too.
//!
//! Where kobune has its networks made by CNI plug-ins (`--network cni`), it calls them itself as ever, and passes over the
//! configuration written here (`kobuneHandsOver`).
//!
//! What it has to know is in a file that is written before the sandbox is asked for: `<data folder>/cri/pods/<namespace>_<name>`.
//!
//! Source of the protocol: `SPEC.md` of containernetworking/cni.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kobune_runtime::{Error, Result, SandboxConfig};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Config, OpenError, io_error};

/// The version of the protocol that the configuration is written in, which all libraries read.
const VERSION: &str = "0.4.0";
/// Where runtimes look when they don't say where.
const CONF_DIR: &str = "/etc/cni/net.d";
const BIN_DIR: &str = "/opt/cni/bin";
/// A configuration is a few hundred bytes long.
const LONGEST: u64 = 64 << 10;

/// Where a runtime looks for configurations and for plug-ins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    conf: PathBuf,
    bin: PathBuf,
}

/// What is handed over.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    uid: String,
    namespace: PathBuf,
    ips: Vec<IpAddr>,
}

/// Where this runtime looks, by what its status says; containerd tells its configuration there. Pure.
pub(crate) fn places(info: &HashMap<String, String>) -> Places {
    let config = info.get("config").and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    let cni = &config["cni"];
    let path =
        |value: &Value, default: &str| PathBuf::from(value.as_str().filter(|text| !text.is_empty()).unwrap_or(default));
    // Newer versions have several folders for plug-ins.
    let bin = if cni["binDirs"][0].is_string() { &cni["binDirs"][0] } else { &cni["binDir"] };
    Places { conf: path(&cni["confDir"], CONF_DIR), bin: path(bin, BIN_DIR) }
}

fn conf_file(config: &Config, places: &Places) -> PathBuf {
    // The first one by name is the one that the runtime takes.
    places.conf.join(format!("05-{}.conflist", config.instance))
}

fn plugin_file(config: &Config, places: &Places) -> PathBuf {
    places.bin.join(&config.instance)
}

/// Writes the configuration and the plug-in's link.
pub(crate) fn install(config: &Config, places: &Places) -> Result<(), OpenError> {
    for folder in [&places.conf, &places.bin] {
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
    }
    if !places.bin.join("loopback").exists() {
        return Err(OpenError::Setup(format!(
            "the container runtime needs the CNI plug-in loopback in {} (Debian: containernetworking-plugins)",
            places.bin.display()
        )));
    }
    let program = fs::canonicalize(&config.executable).map_err(io_error("find", &config.executable))?;
    let plugin = plugin_file(config, places);
    match fs::remove_file(&plugin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("replace", &plugin)(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(&program, &plugin).map_err(io_error("make", &plugin))?;
    let list = json!({
        "cniVersion": VERSION,
        "name": config.instance,
        "plugins": [{"type": config.instance, "kobuneHandsOver": true, "records": config.folder().join("pods")}],
    });
    let file = conf_file(config, places);
    let text = format!("{list:#}\n");
    if fs::read_to_string(&file).is_ok_and(|known| known == text) {
        return Ok(());
    }
    let new = file.with_extension("new");
    fs::write(&new, text).map_err(io_error("write", &new))?;
    fs::rename(&new, &file).map_err(io_error("write", &file))
}

/// Takes the configuration and the link away.
pub(crate) fn uninstall(config: &Config, places: &Places) -> Result<(), OpenError> {
    for file in [conf_file(config, places), plugin_file(config, places)] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("remove", &file)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The file that tells the plug-in of a pod.
pub(crate) fn record_file(config: &Config, namespace: &str, name: &str) -> PathBuf {
    config.folder().join("pods").join(format!("{namespace}_{name}"))
}

/// That file and what is to be in it; nothing for pods in the host's network.
pub(crate) fn record(config: &Config, sandbox: &SandboxConfig) -> Result<Option<(PathBuf, String)>> {
    if sandbox.host_network {
        return Ok(None);
    }
    let missing = || Error::Invalid("a sandbox needs a network namespace or the host's network".to_owned());
    let namespace = sandbox.network_namespace.clone().ok_or_else(missing)?;
    let record = Record { uid: sandbox.uid.clone(), namespace, ips: sandbox.pod_ips.clone() };
    let text = serde_json::to_string(&record).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(Some((record_file(config, &sandbox.namespace, &sandbox.name), text)))
}

/// Whether this process was started as a CNI plug-in.
pub fn is_plugin_call() -> bool {
    std::env::var_os("CNI_COMMAND").is_some() && std::env::args_os().len() == 1
}

/// Answers a runtime that has started this program as a CNI plug-in.
pub fn plugin_main() -> ExitCode {
    let (answer, code) = match perform() {
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Ok(None) => return ExitCode::SUCCESS,
        // 100 and above are a plug-in's own.
        Err(message) => (json!({"cniVersion": VERSION, "code": 100, "msg": message}), ExitCode::FAILURE),
    };
    println!("{answer}");
    code
}

fn perform() -> Result<Option<Value>, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    match variable("CNI_COMMAND")?.as_str() {
        "ADD" => {}
        "DEL" => {
            if let Ok(target) = variable("CNI_NETNS")
                && !target.is_empty()
            {
                give_back(Path::new(&target))?;
            }
            return Ok(None);
        }
        "VERSION" => {
            return Ok(Some(json!({"cniVersion": VERSION, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})));
        }
        // CHECK, STATUS and GC: the node looks after its networks itself.
        _ => return Ok(None),
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| format!("read the configuration: {error}"))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| format!("read the configuration: {error}"))?;
    let records = config["records"].as_str().ok_or("the configuration names no records")?;
    let version = config["cniVersion"].as_str().unwrap_or(VERSION).to_owned();
    let arguments = variable("CNI_ARGS")?;
    let target = PathBuf::from(variable("CNI_NETNS")?);
    let interface = variable("CNI_IFNAME").unwrap_or_else(|_| "eth0".to_owned());
    let record = find(Path::new(records), &arguments)?;
    hand_over(&record.namespace, &target)?;
    Ok(Some(result(&version, &interface, &target, &record.ips)))
}

/// The record of the pod that the runtime's arguments name.
fn find(records: &Path, arguments: &str) -> Result<Record, String> {
    let named: HashMap<&str, &str> = arguments.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let word = |name: &str| -> Result<&str, String> {
        let word = named.get(name).copied().unwrap_or_default();
        let plain = !word.is_empty() && !word.contains('/') && !word.starts_with('.');
        plain.then_some(word).ok_or_else(|| format!("CNI_ARGS say no {name}"))
    };
    let (namespace, name) = (word("K8S_POD_NAMESPACE")?, word("K8S_POD_NAME")?);
    let path = records.join(format!("{namespace}_{name}"));
    let text = fs::read_to_string(&path).map_err(|error| format!("{namespace}/{name} is no pod of kobune: {error}"))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    match named.get("K8S_POD_UID") {
        Some(uid) if *uid != record.uid => Err(format!("{namespace}/{name} is {} by now, not {uid}", record.uid)),
        _ => Ok(record),
    }
}

/// What the runtime is told. Pure.
fn result(version: &str, interface: &str, target: &Path, ips: &[IpAddr]) -> Value {
    let address = |ip: &IpAddr| {
        let (length, family) = if ip.is_ipv4() { (32, "4") } else { (128, "6") };
        let mut address = json!({"address": format!("{ip}/{length}"), "interface": 0});
        // Before version 1.0 each says its family.
        if version.starts_with("0.") {
            address["version"] = json!(family);
        }
        address
    };
    json!({
        "cniVersion": version,
        "interfaces": [{"name": interface, "sandbox": target}],
        "ips": ips.iter().map(address).collect::<Vec<_>>(),
        "dns": {},
    })
}

/// Mounts the pod's namespace over the runtime's, so that there is no moment without one.
fn hand_over(namespace: &Path, target: &Path) -> Result<(), String> {
    if layers(target)? == 0 {
        return Err(format!(
            "the runtime's network namespace {} is not pinned to a file, so that kobune's can't take its place",
            target.display()
        ));
    }
    give_back(target)?;
    let none: Option<&Path> = None;
    mount(Some(namespace), target, none, MsFlags::MS_BIND, none)
        .map_err(|error| format!("mount {} over {}: {error}", namespace.display(), target.display()))?;
    // The plug-in `loopback` puts the link down when a sandbox ends; the next one of the same pod needs it.
    kobune_network::raise_loopback(namespace)
        .map_err(|error| format!("put the loopback link of {} up: {error}", namespace.display()))
}

/// Takes away what was mounted over the runtime's own namespace, which is for the runtime to remove.
fn give_back(target: &Path) -> Result<(), String> {
    for _ in 1..layers(target)? {
        umount2(target, MntFlags::MNT_DETACH).map_err(|error| format!("unmount {}: {error}", target.display()))?;
    }
    Ok(())
}

/// How many mounts are at a path.
fn layers(target: &Path) -> Result<usize, String> {
    let table = fs::read("/proc/self/mountinfo").map_err(|error| format!("read the mount table: {error}"))?;
    let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
    let paths: BTreeSet<&[u8]> = [target.as_os_str().as_bytes(), real.as_os_str().as_bytes()].into();
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines.filter(|line| line.split(|byte| *byte == b' ').nth(4).is_some_and(|path| paths.contains(path))).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_from_the_runtime() {
        let check = |config: &str, conf: &str, bin: &str| {
            let info = [("config".to_owned(), config.to_owned())].into();
            assert_eq!(places(&info), Places { conf: conf.into(), bin: bin.into() }, "{config}");
        };
        check(r#"{"cni":{"confDir":"/c","binDir":"/b"}}"#, "/c", "/b");
        check(r#"{"cni":{"confDir":"","binDirs":["/n","/o"],"binDir":"/b"}}"#, CONF_DIR, "/n");
        check("[", CONF_DIR, BIN_DIR);
        assert_eq!(places(&HashMap::new()).conf, Path::new(CONF_DIR));
    }

    #[test]
    fn pods_are_found_by_name_and_uid() {
        let folder = tempfile::tempdir().expect("a folder");
        let record =
            Record { uid: "u".into(), namespace: "/n".into(), ips: vec!["10.0.0.1".parse().expect("an address")] };
        fs::write(folder.path().join("ns_p"), serde_json::to_string(&record).expect("text")).expect("written");
        let check = |arguments: &str, expected: Result<(), &str>| {
            let found = find(folder.path(), arguments);
            match expected {
                Ok(()) => assert_eq!(found.expect("found"), record),
                Err(words) => assert!(found.expect_err(arguments).contains(words), "{arguments}"),
            }
        };
        check("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p", Ok(()));
        check("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u", Ok(()));
        check("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=other", Err("by now"));
        check("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=q", Err("no pod of kobune"));
        check("K8S_POD_NAMESPACE=..;K8S_POD_NAME=p", Err("K8S_POD_NAMESPACE"));
        check("", Err("K8S_POD_NAMESPACE"));
    }

    #[test]
    fn results_have_the_versions_form() {
        let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")];
        let old = result("0.4.0", "eth0", Path::new("/n"), &ips);
        assert_eq!((&old["ips"][0]["address"], &old["ips"][1]["version"]), (&json!("10.0.0.1/32"), &json!("6")));
        assert!(result("1.0.0", "eth0", Path::new("/n"), &ips)["ips"][0]["version"].is_null());
    }

    #[test]
    fn the_configuration_comes_and_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let config = Config {
            socket: place("s"),
            data_dir: place("data"),
            instance: "kobune-1".into(),
            cgroup_parent: "/k".into(),
            executable: "/proc/self/exe".into(),
        };
        let places = Places { conf: place("conf"), bin: place("bin") };
        let refused = install(&config, &places).expect_err("there is no loopback");
        assert!(refused.to_string().contains("containernetworking-plugins"), "{refused}");
        fs::write(places.bin.join("loopback"), "").expect("written");
        install(&config, &places).expect("installed");
        install(&config, &places).expect("installed once more");
        assert!(places.conf.join("05-kobune-1.conflist").exists() && places.bin.join("kobune-1").exists());
        uninstall(&config, &places).expect("taken away");
        assert!(!places.conf.join("05-kobune-1.conflist").exists() && !places.bin.join("kobune-1").is_symlink());
    }
}
