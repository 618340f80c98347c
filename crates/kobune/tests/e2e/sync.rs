//! `kobune sync`: a cluster that follows a git repository, from the first commit to the day the Sync goes, with what goes wrong
//! in between.

use std::path::{Path, PathBuf};

use kobune_testbed::{Cluster, Running, eventually};

use crate::{SETTLE, wait_for};

/// A repository in a folder.
struct Repository(PathBuf);

impl Repository {
    fn new(folder: PathBuf) -> Repository {
        std::fs::create_dir_all(&folder).expect("a folder is made");
        let repository = Repository(folder);
        repository.git(&["init", "--quiet"]);
        repository
    }

    fn git(&self, words: &[&str]) -> String {
        let settings = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"];
        let output = std::process::Command::new("git").args(settings).args(words).current_dir(&self.0).output();
        let output = output.expect("git runs");
        assert!(output.status.success(), "{words:?} {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder is made");
            std::fs::write(path, text).expect("a file is written");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=x"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn sync(name: &str, repository: &Path, spec: &str) -> String {
    format!(
        "apiVersion: kobune.dev/v1alpha1\nkind: Sync\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  interval: 5s\n  \
         source: {{url: 'file://{}', branch: main, path: deploy}}\n{spec}",
        repository.display()
    )
}

fn config(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{key: {value}}}\n")
}

fn condition(name: &str, kind: &str, field: &str) -> ([String; 4], String) {
    let object = ["sync".to_owned(), name.to_owned(), "-n".to_owned(), "shop".to_owned()];
    (object, format!(r#".status.conditions[?(@.type=="{kind}")].{field}"#))
}

#[track_caller]
fn wait_reason(cluster: &Cluster, name: &str, kind: &str, reason: &str) {
    let (object, path) = condition(name, kind, "reason");
    let object: Vec<&str> = object.iter().map(String::as_str).collect();
    wait_for(cluster, &object, &path, reason);
}

#[track_caller]
fn wait_value(cluster: &Cluster, name: &str, value: &str) {
    wait_for(cluster, &["configmap", name, "-n", "shop"], ".data.key", value);
}

fn message(cluster: &Cluster, name: &str) -> String {
    let (object, path) = condition(name, "Ready", "message");
    let output = format!("jsonpath={{{path}}}");
    let words = ["get", &object[0], &object[1], "-n", "shop", "-o", &output];
    cluster.kubectl(words).expect("kubectl runs").ok()
}

fn events(cluster: &Cluster, name: &str) -> String {
    let field = format!("involvedObject.name={name}");
    let words = [
        "get",
        "events",
        "-n",
        "shop",
        "--field-selector",
        &field,
        "-o",
        "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
    ];
    cluster.kubectl(words).expect("kubectl runs").ok()
}

/// Starts the controller as a program of its own.
fn alone(cluster: &Cluster) -> Running {
    let mut command = cluster.client(env!("CARGO_BIN_EXE_kobune"));
    let cache = cluster.data_dir().join("copies");
    command.args(["sync", "--sync-allow-local-repositories", "--cache-dir"]).arg(cache);
    Running::start(command, None).expect("the controller starts")
}

#[test]
fn a_cluster_follows_a_repository() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).simulated(1).start().expect("a cluster starts");
    let repository = Repository::new(cluster.data_dir().join("repository"));
    let first = repository.commit(&[
        ("deploy/kustomization.yaml", "resources: [../base, web.yaml]\n"),
        ("deploy/web.yaml", &WEB.replace("IMAGE", "one")),
        ("base/kustomization.yaml", "resources: [one.yaml, two.yaml, three.yaml]\n"),
        ("base/one.yaml", &config("one", "a")),
        ("base/two.yaml", &config("two", "a")),
        ("base/three.yaml", &config("three", "a")),
    ]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    let controller = alone(&cluster);
    eventually("the kind is there", SETTLE, || {
        let got =
            cluster.kubectl(["apply", "--dry-run=server", "-f", "-"]).and(cluster.kubectl(["get", "syncs", "-A"]));
        let got = got.map_err(|error| error.to_string())?;
        if got.status.success() { Ok(()) } else { Err(got.stderr) }
    });

    // What is wrong is said where it is written.
    for (spec, words) in [
        ("  interval: 1s\n", "must be 5s or longer"),
        ("  source: {url: 'https://me:secret@example.com/a'}\n", "must hold no credentials"),
        ("  source: {url: 'https://example.com/a', branch: a, tag: b}\n", "at most one of branch, tag and commit"),
    ] {
        let text = format!(
            "apiVersion: kobune.dev/v1alpha1\nkind: Sync\nmetadata: {{name: bad, namespace: shop}}\nspec:\n  source: {{url: 'https://example.com/a'}}\n{spec}"
        );
        let text = if spec.contains("source") {
            text.replacen("  source: {url: 'https://example.com/a'}\n", "", 1)
        } else {
            text
        };
        let refused = cluster.kubectl_with(["create", "-f", "-"], Some(&text)).expect("kubectl runs").err();
        assert!(refused.contains(words), "{refused}");
    }

    // The first commit.
    cluster.apply(&sync("web", &repository.0, ""));
    wait_reason(&cluster, "web", "Ready", "Applied");
    wait_value(&cluster, "one", "a");
    let revision = format!("main@{}", &first[..12]);
    assert_eq!(message(&cluster, "web"), format!("{revision} is applied"));
    wait_for(&cluster, &["sync", "web", "-n", "shop"], ".status.objects", "4");
    let (_, healthy) = condition("web", "Healthy", "status");
    wait_for(&cluster, &["sync", "web", "-n", "shop"], &healthy, "True");
    let told = events(&cluster, "web");
    assert!(told.contains(&format!("Applied: {revision}: 4 created: configmap/one in shop")), "{told}");
    let table = cluster.kubectl(["get", "syncs", "-n", "shop"]).expect("kubectl runs").ok();
    assert!(table.contains(&revision) && table.contains("MESSAGE"), "{table}");

    // kobune's other verbs know the set: its history, and a plan of the same folder.
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("the path is text");
    let history = ["history", "sync-web", "-n", "shop", "--kubeconfig", kubeconfig];
    let history = cluster.kobune(history).expect("kobune runs").ok();
    assert!(history.contains(&revision), "{history}");

    // While nothing moves nothing is written.
    let version = || {
        let path = "jsonpath={.metadata.resourceVersion}";
        cluster.kubectl(["get", "sync", "web", "-n", "shop", "-o", path]).expect("kubectl runs").ok()
    };
    let still = version();

    // Drift is corrected, and said.
    cluster
        .kubectl(["patch", "cm", "two", "-n", "shop", "--type=merge", "-p", r#"{"data":{"key":"z"}}"#])
        .unwrap()
        .ok();
    wait_value(&cluster, "two", "a");
    eventually("the drift is told", SETTLE, || {
        let told = events(&cluster, "web");
        if told.contains("DriftCorrected") && told.contains("configmap/two in shop (data.key)") {
            Ok(())
        } else {
            Err(told)
        }
    });
    let written = version();
    assert_ne!(still, written, "the plan is noted");

    // A new commit: one object changes, one comes, one goes.
    repository.git(&["rm", "--quiet", "base/three.yaml"]);
    let second = repository.commit(&[
        (
            "base/kustomization.yaml",
            "resources: [one.yaml, two.yaml]\nconfigMapGenerator: [{name: made, namespace: shop, literals: [a=b]}]\n",
        ),
        ("base/one.yaml", &config("one", "b")),
    ]);
    wait_value(&cluster, "one", "b");
    eventually("what left the repository is pruned", SETTLE, || {
        let left =
            cluster.kubectl(["get", "cm", "-n", "shop", "-o", "name"]).map_err(|error| error.to_string())?.stdout;
        if left.contains("/made-") && !left.contains("/three") { Ok(()) } else { Err(left) }
    });
    wait_for(&cluster, &["sync", "web", "-n", "shop"], ".status.appliedRevision", &format!("main@{}", &second[..12]));

    // A render that fails changes and prunes nothing; nor does an empty one, nor one from which most is missing.
    repository.commit(&[("deploy/kustomization.yaml", "resources: [../base, nowhere.yaml]\n")]);
    wait_reason(&cluster, "web", "Ready", "BuildFailed");
    assert!(message(&cluster, "web").contains("nowhere.yaml"), "{}", message(&cluster, "web"));
    repository.commit(&[("deploy/kustomization.yaml", "resources: []\n")]);
    eventually("an empty build is refused", SETTLE, || {
        let words = message(&cluster, "web");
        if words.contains("there are no objects in deploy") { Ok(()) } else { Err(words) }
    });
    repository.commit(&[("deploy/kustomization.yaml", "resources: [web.yaml]\n")]);
    wait_reason(&cluster, "web", "Ready", "Blocked");
    assert!(
        message(&cluster, "web").contains("4 objects would go; if that is meant, set spec.maxPrune to 76"),
        "{}",
        message(&cluster, "web")
    );
    wait_value(&cluster, "one", "b");

    // History that was written anew is followed; the controller is killed on the way, and the next one goes on.
    let killed = controller.id();
    drop(controller);
    assert!(!Path::new(&format!("/proc/{killed}/exe")).exists(), "the controller is gone");
    repository.git(&["reset", "--quiet", "--hard", &first]);
    let third = repository.commit(&[("base/two.yaml", &config("two", "c"))]);
    let controller = alone(&cluster);
    wait_value(&cluster, "two", "c");
    wait_value(&cluster, "one", "a");
    wait_for(&cluster, &["sync", "web", "-n", "shop"], ".status.appliedRevision", &format!("main@{}", &third[..12]));

    // A repository that is gone leaves everything as it is.
    let away = repository.0.with_extension("away");
    std::fs::rename(&repository.0, &away).expect("the repository is moved");
    wait_reason(&cluster, "web", "Ready", "FetchFailed");
    std::fs::rename(&away, &repository.0).expect("the repository is moved");
    wait_reason(&cluster, "web", "Ready", "Applied");

    // A tenant's Sync has the rights of its service account, no more.
    cluster.apply(TENANT);
    cluster.apply(
        &sync("tenant", &repository.0, "  serviceAccountName: tenant\n").replace("path: deploy", "path: tenant"),
    );
    wait_reason(&cluster, "tenant", "Ready", "BuildFailed");
    repository.commit(&[("tenant/a.yaml", &config("tenants", "a"))]);
    wait_value(&cluster, "tenants", "a");
    let grab = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: grab}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\nsubjects: [{kind: ServiceAccount, name: tenant, namespace: shop}]\n";
    repository.commit(&[("tenant/b.yaml", grab)]);
    eventually("more than its rights is refused", SETTLE, || {
        let words = message(&cluster, "tenant");
        if words.contains("system:serviceaccount:shop:tenant") && words.contains("forbidden") {
            Ok(())
        } else {
            Err(words)
        }
    });

    // The Sync goes, and takes along what it has brought where that is wanted.
    cluster.kubectl(["delete", "sync", "tenant", "-n", "shop"]).unwrap().ok();
    wait_value(&cluster, "tenants", "a");
    cluster
        .kubectl(["patch", "sync", "web", "-n", "shop", "--type=merge", "-p", r#"{"spec":{"deletionPolicy":"Prune"}}"#])
        .unwrap()
        .ok();
    wait_for(&cluster, &["sync", "web", "-n", "shop"], ".metadata.finalizers[0]", "kobune.dev/sync");
    cluster.kubectl(["delete", "sync", "web", "-n", "shop", "--timeout=60s"]).unwrap().ok();
    let left = cluster.kubectl(["get", "deploy,cm,secret", "-n", "shop", "-o", "name"]).unwrap().ok();
    let others: Vec<&str> =
        left.lines().filter(|line| !line.contains("kube-root-ca") && !line.contains("tenant")).collect();
    assert!(others.is_empty(), "{others:?}");
    drop(controller);
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'kobune.local/kobune', env: [{name: VERSION, value: IMAGE}]}]
"#;

const TENANT: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: shop}
rules: [{apiGroups: [""], resources: [configmaps, secrets], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: ServiceAccount, name: tenant, namespace: shop}]
"#;
