//! The whole runtime against a CRI server that is good or bad at it.

use std::time::Duration;

use kobune_grpc::Code;
use kobune_runtime::{
    ContainerConfig, ContainerEventKind, ContainerId, ContainerRuntime, ContainerState, Error, EventReceiver,
    ExecOptions, Resize, Resources, SandboxConfig, SandboxId, SandboxState,
};
use std::sync::Arc;

use crate::fake::{Fake, Fault, survives};
use crate::proto::container::{ContainerStatus, LinuxContainerResources};
use crate::{CriRuntime, OpenError, end_all, socket_of};

/// Longer than anything here takes; what is waited for comes at once or never.
const PATIENCE: Duration = Duration::from_secs(60);

fn pod(uid: &str) -> SandboxConfig {
    SandboxConfig {
        uid: uid.into(),
        name: uid.into(),
        namespace: "default".into(),
        host_network: true,
        hosts: Some("127.0.0.1 localhost\n".into()),
        resources: Resources { cpu_shares: Some(100), ..Resources::default() },
        ..SandboxConfig::default()
    }
}

fn main_container() -> ContainerConfig {
    ContainerConfig { name: "main".into(), image: "sha256:1".into(), ..ContainerConfig::default() }
}

/// Pods' groups are real: without the right to make them nothing here can be tried.
fn may_make_groups() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: making control groups needs root");
    }
    root
}

async fn open(fake: &Fake) -> Arc<CriRuntime> {
    CriRuntime::open(fake.config()).await.expect("the runtime can be used")
}

async fn running(runtime: &CriRuntime, uid: &str) -> (SandboxId, ContainerId) {
    let sandbox = runtime.run_pod_sandbox(pod(uid)).await.expect("a sandbox");
    let container = runtime.create_container(&sandbox, main_container()).await.expect("a container");
    runtime.start_container(&container).await.expect("it starts");
    (sandbox, container)
}

async fn heard(events: &mut EventReceiver) -> Vec<ContainerEventKind> {
    let first = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").expect("a runtime");
    first.into_iter().map(|event| event.kind).collect()
}

#[test]
fn endpoints() {
    assert_eq!(socket_of("unix:///run/c.sock").expect("a socket"), std::path::Path::new("/run/c.sock"));
    assert_eq!(socket_of("/run/c.sock").expect("a socket"), std::path::Path::new("/run/c.sock"));
    assert!(socket_of("tcp://1.2.3.4:5").is_err());
}

#[test]
fn messages_survive_their_encoding() {
    let limits = LinuxContainerResources {
        memory_swap_limit_in_bytes: -1,
        unified: [("memory.high".into(), "5".into())].into(),
        ..LinuxContainerResources::default()
    };
    assert!(survives(&limits));
    assert!(survives(&ContainerStatus { exit_code: -1, started_at: i64::MIN, ..ContainerStatus::default() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_life() {
    if !may_make_groups() {
        return;
    }
    let fake = Fake::start();
    let runtime = open(&fake).await;
    assert_eq!(runtime.version(), "fake://1");
    assert_eq!(runtime.handlers(), Some(vec!["gvisor".to_owned()]));
    let mut events = runtime.events();
    let (sandbox, container) = running(&runtime, "life").await;
    assert_eq!(heard(&mut events).await, [ContainerEventKind::Started]);
    let known = runtime.container(&container).expect("it is known");
    assert_eq!((known.pod_uid.as_str(), known.name.as_str(), known.state), ("life", "main", ContainerState::Running));
    assert_eq!(known.image_id, "sha256:1");

    let told = runtime.exec_sync(&container, vec!["say".into(), "it".into()], PATIENCE).await.expect("it ran");
    assert_eq!((told.exit_code, told.stdout.as_slice()), (7, &b"say it"[..]));

    let limits = Resources { memory_limit: Some(1 << 30), ..Resources::default() };
    let wanted = Resize {
        pod: Some(limits.clone()),
        containers: vec![(container.clone(), Resources { cpu_quota: Some(5000), ..Resources::default() })],
    };
    runtime.resize(&sandbox, wanted).await.expect("resized");
    assert_eq!(fake.books.lock().limits[0].linux.as_ref().map(|limits| limits.cpu_quota), Some(5000));
    assert_eq!(runtime.container(&container).and_then(|known| known.resources.cpu_quota), Some(5000));
    assert_eq!(runtime.pod_sandbox(&sandbox).and_then(|known| known.config.resources.memory_limit), Some(1 << 30));

    runtime.stop_container(&container, Duration::from_millis(1500)).await.expect("stopped");
    assert_eq!(heard(&mut events).await, [ContainerEventKind::Exited(143)]);
    runtime.remove_pod_sandbox(&sandbox).await.expect("removed");
    runtime.remove_pod_sandbox(&sandbox).await.expect("removed twice is removed");
    assert!(runtime.containers().is_empty() && runtime.pod_sandboxes().is_empty());
    let left = std::fs::read_dir(fake.folder.path().join("data/cri/hosts")).expect("a folder").count();
    assert_eq!(left, 0, "the pod's files go with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_found_without_events() {
    if !may_make_groups() {
        return;
    }
    let fake = Fake::start();
    let runtime = open(&fake).await;
    let (sandbox, container) = running(&runtime, "ends").await;
    let mut events = runtime.events();
    fake.end_container(container.as_str(), 3);
    assert_eq!(heard(&mut events).await, [ContainerEventKind::Exited(3)]);
    let known = runtime.container(&container).expect("it is known");
    assert_eq!((known.exit_code, known.reason.as_str()), (Some(3), "Error"));
    // Somebody removes the whole pod with the runtime's own tools.
    {
        let mut books = fake.books.lock();
        books.sandboxes.clear();
        books.containers.clear();
    }
    assert_eq!(heard(&mut events).await, [ContainerEventKind::SandboxLost]);
    assert!(runtime.pod_sandbox(&sandbox).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_taken_over_and_of_others_nothing() {
    if !may_make_groups() {
        return;
    }
    let fake = Fake::start();
    let first = open(&fake).await;
    let (sandbox, container) = running(&first, "over").await;
    drop(first);
    {
        let mut books = fake.books.lock();
        let mut other = books.sandboxes[sandbox.as_str()].clone();
        other.id = "other".into();
        other.labels.clear();
        books.sandboxes.insert("other".into(), other);
    }
    let second = open(&fake).await;
    let known = second.container(&container).expect("it is known");
    assert_eq!((known.state, known.sandbox), (ContainerState::Running, sandbox.clone()));
    let sandboxes = second.pod_sandboxes();
    assert_eq!(sandboxes.len(), 1, "only its own");
    assert_eq!(sandboxes[0].config.resources.cpu_shares, Some(100), "what was asked is remembered");
    // A container that was being started cannot be removed at once.
    fake.books.lock().refusals = 2;
    end_all(&fake.config()).await.expect("ended");
    assert_eq!(fake.books.lock().refusals, 0);
    let left: Vec<String> = fake.books.lock().sandboxes.keys().cloned().collect();
    assert_eq!(left, ["other"]);
    assert!(!fake.folder.path().join("data/cri").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_dies_comes_back() {
    if !may_make_groups() {
        return;
    }
    let mut fake = Fake::start();
    let runtime = open(&fake).await;
    let (_, container) = running(&runtime, "dies").await;
    let mut events = runtime.events();
    fake.die();
    let stopped = runtime.stop_container(&container, Duration::ZERO).await;
    assert!(matches!(stopped, Err(Error::Remote(_))), "{stopped:?}");
    let down = async {
        while runtime.trouble().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, down).await.expect("the trouble is known");
    assert_eq!(
        runtime.container(&container).map(|known| known.state),
        Some(ContainerState::Running),
        "nothing is forgotten"
    );
    fake.end_container(container.as_str(), 9);
    fake.listen();
    assert_eq!(heard(&mut events).await, [ContainerEventKind::Exited(9)]);
    let up = async {
        while runtime.trouble().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("the trouble is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_are_errors_of_one_call() {
    if !may_make_groups() {
        return;
    }
    let fake = Fake::start();
    let runtime = open(&fake).await;
    let (sandbox, container) = running(&runtime, "good").await;
    let faults = [Fault::Malformed, Fault::Empty, Fault::Code(Code::Internal), Fault::Code(Code::Unimplemented)];
    for fault in faults {
        fake.fault("PodSandboxStatus", fault);
        assert!(runtime.run_pod_sandbox(pod("bad")).await.is_err(), "{fault:?}");
        fake.mend("PodSandboxStatus");
        fake.fault("ContainerStatus", fault);
        assert!(runtime.create_container(&sandbox, main_container()).await.is_err(), "{fault:?}");
        assert!(runtime.stop_container(&container, Duration::ZERO).await.is_err(), "{fault:?}");
        fake.mend("ContainerStatus");
    }
    for fault in [Fault::Malformed, Fault::Code(Code::Internal)] {
        for method in ["ExecSync", "Exec", "ImageStatus", "ListImages", "RemoveImage", "PullImage"] {
            fake.fault(method, fault);
        }
        assert!(runtime.exec_sync(&container, vec!["x".into()], PATIENCE).await.is_err());
        assert!(runtime.exec(&container, ExecOptions { stdout: true, ..ExecOptions::default() }).await.is_err());
        assert!(runtime.image_status("x").await.is_err());
        assert!(runtime.remove_image("x").await.is_err());
        assert!(runtime.pull_image("x", None).await.is_err());
        runtime.list_images().await;
    }
    fake.mend("Exec");
    let strange = runtime.exec(&container, ExecOptions { stdout: true, ..ExecOptions::default() }).await;
    assert!(strange.err().is_some_and(|error| error.to_string().contains("streaming address")), "it is no address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_holds_up_no_other() {
    if !may_make_groups() {
        return;
    }
    let fake = Fake::start();
    let runtime = open(&fake).await;
    let (sandbox, container) = running(&runtime, "hangs").await;
    fake.fault("StopContainer", Fault::Hang);
    let hung = runtime.stop_container(&container, Duration::ZERO);
    let others = async {
        runtime.exec_sync(&container, vec!["x".into()], PATIENCE).await.expect("it runs");
        runtime.run_pod_sandbox(pod("beside")).await.expect("a sandbox");
        assert_eq!(runtime.pod_sandbox(&sandbox).map(|known| known.state), Some(SandboxState::Ready));
    };
    // The first branch hangs for two minutes, by which time the test has failed.
    tokio::select! {
        stopped = hung => panic!("it was to hang: {stopped:?}"),
        () = others => {}
    }
    fake.fault("ExecSync", Fault::Code(Code::DeadlineExceeded));
    let late = runtime.exec_sync(&container, vec!["x".into()], Duration::from_secs(1)).await;
    assert!(matches!(late, Err(Error::Timeout(_))), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_says_why() {
    let fake = Fake::start();
    fake.books.lock().version = "v1alpha2".into();
    let old = CriRuntime::open(fake.config()).await.err().expect("it is too old");
    assert!(matches!(old, OpenError::NoCri { .. }) && old.to_string().contains("v1alpha2"), "{old}");
    fake.books.lock().version = "v1".into();
    fake.fault("Version", Fault::Code(Code::Unimplemented));
    let none = CriRuntime::open(fake.config()).await.err().expect("it has no CRI");
    assert!(none.to_string().contains("disabled_plugins"), "{none}");
    fake.fault("Version", Fault::Malformed);
    assert!(CriRuntime::open(fake.config()).await.is_err());
    fake.mend("Version");
    fake.fault("ListPodSandbox", Fault::Malformed);
    assert!(CriRuntime::open(fake.config()).await.is_err(), "what runs is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_not_ready_is_told() {
    let fake = Fake::start();
    fake.books.lock().not_ready = true;
    let runtime = open(&fake).await;
    let trouble = runtime.trouble().expect("it is not ready");
    assert!(trouble.contains("NetworkReady: Because: it is so"), "{trouble}");
}
