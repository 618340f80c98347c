//! kobune's everyday verbs beside the real kubectl: the same bytes on both streams, the same exit codes.

use kobune_testbed::{Cluster, Finished, Running, eventually};

use crate::{SETTLE, cluster, sleeper};

/// Objects of many kinds, with what descriptions have words for.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: demo, annotations: {note: "several\nlines"}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota, namespace: demo}
spec: {hard: {pods: "20", requests.memory: 40Gi}, scopes: [NotTerminating]}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits, namespace: demo}
spec: {limits: [{type: Container, max: {cpu: "2"}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: demo, labels: {a: b}}
data: {one: x, two: "a\nb\n", terminal: "\e[31mred"}
binaryData: {bin: AAECAw==}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: demo}
stringData: {k: value}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: demo}
imagePullSecrets: [{name: one}, {name: two}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {q: w}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
      containers:
      - name: main
        image: kobune.local/kobune
        imagePullPolicy: IfNotPresent
        command: [sleep, infinity]
        ports: [{containerPort: 80, name: web}]
        resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {memory: 64Mi, cpu: 500m}}
        readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
        livenessProbe: {httpGet: {path: "/a b", port: web}, initialDelaySeconds: 600}
        env:
        - {name: PLAIN, value: "one\ntwo"}
        - {name: SELF, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
        - {name: KEY, valueFrom: {secretKeyRef: {name: secret, key: k}}}
        envFrom: [{prefix: P_, configMapRef: {name: settings, optional: true}}]
        volumeMounts: [{name: scratch, mountPath: /scratch}, {name: files, mountPath: /files, readOnly: true}]
      volumes:
      - {name: scratch, emptyDir: {sizeLimit: 1Mi}}
      - {name: files, projected: {sources: [{configMap: {name: settings}}, {secret: {name: secret, optional: true}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: demo}
spec:
  serviceName: db
  replicas: 0
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: main, image: x}]}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere, namespace: demo}
spec:
  selector: {matchLabels: {app: everywhere}}
  template: {metadata: {labels: {app: everywhere}}, spec: {nodeSelector: {no: where}, containers: [{name: main, image: x, resources: {requests: {memory: 1Mi}}}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: yearly, namespace: demo}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: x, command: [a, b]}]}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: demo}
spec:
  tls: [{hosts: [a.b], secretName: s}]
  defaultBackend: {service: {name: gone, port: {number: 80}}}
  rules: [{host: a.b, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: strict, namespace: demo}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}, {}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: demo}
rules: [{apiGroups: ["", apps], resources: [pods, pods/log], verbs: [get, list]}, {apiGroups: [""], resources: [secrets], resourceNames: [a, b], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: demo}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: robot, namespace: demo}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: demo}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: db}
  maxReplicas: 3
  metrics: [{type: Pods, pods: {metric: {name: rps}, target: {type: AverageValue, averageValue: 1k}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 60, policies: [{type: Pods, value: 1, periodSeconds: 30}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: demo}
spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: share}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce, ReadOnlyMany]
  storageClassName: none
  nfs: {server: s, path: /p}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: In, values: [a, b]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: demo}
spec: {accessModes: [ReadWriteOnce], storageClassName: nothing, resources: {requests: {storage: 1Gi}}}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 10
description: words
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.x.io}
spec:
  group: x.io
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, description: A boat., properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true, required: [size], properties: {size: {type: integer, description: How long it is.}, colour: {type: string, enum: [red, green, ""]}}}}}}
"#;

const BOAT: &str = r#"{"apiVersion": "x.io/v1", "kind": "Boat", "metadata": {"name": "one", "namespace": "demo"},
    "spec": {"size": 5, "colour": "red", "sails": [{"area": 1.5, "isFull": null}, 2, ["a", {"b": "c"}]], "podURLs": ["x"],
      "a/b": true, "speed": 1234567.5, "text": "a\tb\u001b[1m\r\nc"}}"#;

/// Command lines that both programs get. Ages may tick in between; then both are asked again.
const ALIKE: &[&str] = &[
    "describe pods -n demo",
    "describe nodes",
    "describe deployments,rs,sts,ds,cj -n demo",
    "describe svc,ep,endpointslices -A",
    "describe cm,secrets,sa -A",
    "describe ns",
    "describe pv,sc,priorityclass,ingressclass,servicecidr,ipaddress,crd",
    "describe pvc,ing,netpol,hpa,pdb,quota,limitrange -n demo",
    "describe roles,rolebindings -A",
    "describe clusterroles,clusterrolebindings",
    "describe boats,leases -A",
    "describe pod we -n demo",
    "describe pod nothing -n demo",
    "describe pod/nothing svc/nothing -n demo",
    "describe pods -l app=nothing -n demo",
    "describe pods -l app=web -n demo --show-events=false",
    "describe nonsense",
    "get pods,svc -n demo -o yaml",
    "get deploy/web svc/web -n demo -o json",
    "get boats,cm -A -o yaml",
    "get crd,nodes -o json",
    "get clusterroles -o yaml --show-managed-fields",
    "get all -A -o name",
    "get pods -A -o wide --show-labels -L app",
    "get boats,crd -A",
    "get endpoints -A --no-headers",
    "get pod nothing -n demo --ignore-not-found -o yaml",
    "get pod nothing -n demo",
    "get nonsense",
    "explain pods",
    "explain pods.spec.containers.env.valueFrom",
    "explain deploy --recursive",
    "explain hpa.spec.metrics --api-version=autoscaling/v2",
    "explain boats.spec.colour",
    "explain boats.spec.nothing",
    "explain crd.spec.versions.schema --recursive",
    "api-versions",
    "cluster-info",
    "create namespace new --dry-run=client -o yaml",
    "create cm new --from-literal=a=b --from-literal=c=d --append-hash --dry-run=client -o yaml -n demo",
    "create cm new --from-literal=a --dry-run=client",
    "create cm settings --from-literal=a=b -n demo",
    "create secret generic new --from-literal=a=b --type=x/y --dry-run=client -o yaml",
    "create secret docker-registry new --docker-username=u --docker-password=p<>& --docker-server=s --dry-run=client -o yaml",
    "create deploy new --image=a/b:1 --replicas=3 --port=80 --dry-run=client -o yaml -- sleep 1",
    "create job new --from=cronjob/yearly -n demo --dry-run=client -o yaml",
    "create cj new --image=x --schedule=@daily --dry-run=server",
    "create svc nodeport new --tcp=80:web --node-port=30001 --dry-run=client -o yaml",
    "create svc externalname new --external-name=a.b --dry-run=client -o yaml",
    "create ing new --class=c --rule=/path=svc:port --rule=foo.com/*=svc:1,tls=s --annotation a=b --dry-run=client -o yaml",
    "create pdb new --selector=a=b --min-available=50% --dry-run=client -o yaml",
    "create quota new --hard=cpu=1,memory=1024Mi --scopes=BestEffort --dry-run=client -o yaml",
    "create pc new --value=5 --global-default --dry-run=client -o yaml",
    "create sa robot -n demo",
    "create role new --verb=get,list --resource=po,pods/log,deploy --dry-run=client -o yaml",
    "create clusterrole new --verb=get --non-resource-url=/a/* --dry-run=client -o yaml",
    "create rolebinding new --role=r --user=u --serviceaccount=n:s --dry-run=client -o yaml",
    "create token nothing -n demo",
    "create cm new --dry-run=client -o go-template={{.kind}}",
    "create cm new --dry-run=client -o bad",
    "get ns default -o go-template={{.metadata.name}}{{.x.y}}{{len␣.metadata.name}}",
    "get ns -o go-template={{range␣$i,$e:=.items}}{{if␣$i}},{{end}}{{.metadata.name}}{{end}}",
    "get deploy web -n demo -o go-template={{.spec.replicas}}{{.spec.selector}}{{printf␣`%v␣%d`␣.spec.progressDeadlineSeconds␣7}}",
    "get ns default -o go-template=a{{.metadata.name.x}}",
    "get ns default -o go-template={{index␣.metadata␣`none`}}{{index␣.metadata␣1}}",
    "get ns default -o go-template={{.a",
    "get ns -o go-template",
    "get ns -o bad",
    "get ns -o custom-columns",
    "get ns -o jsonpath-file=/nothing",
    "get ns -o jsonpath-as-json={.items[*].metadata.name}",
    "get ns --template={{.kind}}",
    "get pods,svc,cm -n demo -o kyaml",
    "get ns default --subresource=status -o name",
    "get deploy web -n demo --subresource=scale -o yaml",
    "get deploy web -n demo --subresource=scale",
    "get deploy -n demo --subresource=scale",
    "get ns --output-watch-events",
    "get ns --show-labels -o yaml",
    "get --raw /api/v1/namespaces/demo/configmaps/settings",
    "get --raw /nothing",
    "get --raw healthz",
    "get -f /nothing",
    "label cm settings -n demo new=1 --dry-run=client -o yaml",
    "label cm settings -n demo new=1 --dry-run=server -o jsonpath={.metadata.labels}",
    "annotate cm settings -n demo q=1 --dry-run=server -o name",
    "patch cm settings -n demo --type=merge -p {\"data\":{\"z\":\"1\"}} --dry-run=server -o jsonpath={.data}",
    "set env deploy/web -n demo B=2 --dry-run=server -o jsonpath={.spec.template.spec.containers[*].env}",
    "set env deploy/web -n demo PLAIN=2 --overwrite=false",
    "set env deploy/web -n demo --list",
    "set env deploy/web -n demo PLAIN- --dry-run=server -o jsonpath={.spec.template.spec.containers[*].env}",
    "set env deploy/web -n demo --from=secret/secret --prefix=P_ --dry-run=client",
    "set env cm/settings -n demo A=1",
    "set resources deploy web -n demo --limits=cpu=1,memory=64Mi --dry-run=server -o jsonpath={..resources}",
    "set resources deploy web -n demo",
    "set selector svc nothing a=b -n demo",
    "set selector deploy web a=b -n demo",
    "set sa deploy web robot -n demo --dry-run=server -o jsonpath={.spec.template.spec.serviceAccountName}",
    "set subject clusterrolebinding cluster-admin --user=x --serviceaccount=a:b --dry-run=server -o jsonpath={.subjects}",
    "set subject clusterrolebinding cluster-admin --serviceaccount=b",
    "set image deploy/web -n demo none=x",
    "scale deploy web -n demo --replicas=2 --dry-run=client -o jsonpath={.spec.replicas}",
    "scale deploy web -n demo --replicas=1 --current-replicas=5",
    "scale deploy web -n demo --replicas=-1",
    "scale cm settings -n demo --replicas=1",
    "scale deploy --all -n demo --replicas=2 --dry-run=server",
    "expose deploy web -n demo --dry-run=client -o yaml",
    "expose deploy web -n demo --port=80,81 --target-port=web --type=NodePort --name=x --dry-run=client -o yaml",
    "expose pod lone --dry-run=server",
    "expose cm settings -n demo --port=80",
    "autoscale deploy web -n demo --min=2 --max=3 --cpu=70% --memory=200 --dry-run=client -o yaml",
    "autoscale deploy web -n demo --max=3 --cpu=50% --name=other --dry-run=server",
    "autoscale deploy web -n demo --max=0",
    "autoscale deploy web -n demo --max=3 --cpu=1.5x",
    "delete cm settings -n demo --dry-run=client",
    "delete cm settings -n demo --dry-run=server -o name",
    "delete cm,secret -n demo --field-selector=metadata.name=settings --dry-run=client",
    "delete cm nothing -n demo --ignore-not-found",
    "delete cm -n demo",
    "delete cm settings -n demo --all",
    "delete cm --all -l a=b -n demo",
    "delete cm settings -n demo -o yaml",
    "delete cm settings -n demo --now --grace-period=5",
    "delete --raw /api/v1/namespaces/demo/configmaps/nothing",
    "delete -f /nothing",
    "replace -f /nothing",
    "replace",
    "certificate approve",
    "certificate deny nothing",
    "auth whoami",
    "auth whoami -o jsonpath={.status.userInfo.groups}",
];

/// What is done to two copies of one kubeconfig.
const CONFIG: &[&str] = &[
    "config view",
    "config get-contexts",
    "config set-cluster new --server=https://n --insecure-skip-tls-verify=true",
    "config set-credentials me --token=secret",
    "config set-credentials it --exec-command=c --exec-api-version=client.authentication.k8s.io/v1 --exec-env=A=b",
    "config set-context two --cluster=new --user=me --namespace=q",
    "config use-context two",
    "config use-context nope",
    "config set-context --current --namespace=w",
    "config current-context",
    "config view --minify",
    "config view --raw",
    "config rename-context two three",
    "config get-contexts -o name",
    "config delete-context three",
    "config delete-user it",
    "config delete-cluster new",
    "config delete-cluster new",
    "config view",
];

fn run(cluster: &Cluster, program: impl AsRef<std::ffi::OsStr>, line: &str) -> Finished {
    let mut command = cluster.client(program);
    // A blank that parts no arguments.
    command.args(line.split(' ').map(|argument| argument.replace('␣', " ")));
    Running::start(command, None).unwrap().finish(SETTLE).unwrap()
}

/// Both streams and the exit code, where kobune names kubectl by its own name.
fn said(finished: &Finished) -> (Option<i32>, String, String) {
    (finished.status.code(), finished.stdout.clone(), finished.stderr.clone())
}

/// What changes objects is done by kobune and looked at through kubectl.
fn changes(cluster: &Cluster) {
    let kobune = |line: &str| run(cluster, env!("CARGO_BIN_EXE_kobune"), line).ok();
    let field = |object: &str, path: &str| {
        cluster.kubectl(["get", object, "-n", "demo", "-o", &format!("jsonpath={{{path}}}")]).unwrap().ok()
    };
    let folder = cluster.data_dir().join("changes");
    std::fs::create_dir(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let manifest = file(
        "both.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first, namespace: demo}\ndata: {a: \"1\"}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: second-, namespace: demo}\n",
    );
    let created = kobune(&format!("create -f {manifest}"));
    assert!(created.starts_with("configmap/first created\nconfigmap/second-"), "{created}");

    let whole = file(
        "whole.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first, namespace: demo}\ndata: {b: \"2\"}\n",
    );
    assert_eq!(kobune(&format!("get -f {whole} -o name")), "configmap/first\n");
    assert_eq!(kobune(&format!("replace -f {whole}")), "configmap/first replaced\n");
    assert_eq!(field("configmap/first", ".data"), r#"{"b":"2"}"#);
    let other = file(
        "other.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first, namespace: demo}\ndata: {d: \"4\"}\n",
    );
    let compared = run(cluster, env!("CARGO_BIN_EXE_kobune"), &format!("diff -f {other}"));
    assert_eq!(compared.status.code(), Some(1), "{}", compared.stderr);
    assert!(compared.stdout.contains("\n   b: \"2\"\n+  d: \"4\"\n"), "{}", compared.stdout);
    let forced = kobune(&format!("replace -f {whole} --force"));
    assert_eq!(forced, "configmap \"first\" force deleted from demo namespace\nconfigmap/first replaced\n");

    assert_eq!(kobune("scale deploy web -n demo --replicas=1 --timeout=90s"), "deployment.apps/web scaled\n");
    assert_eq!(field("deployment/web", ".status.replicas"), "1");
    assert_eq!(kobune("set env deploy/web -n demo PLAIN- ADDED=1"), "deployment.apps/web env updated\n");
    let names = field("deployment/web", ".spec.template.spec.containers[0].env[*].name");
    assert!(names.ends_with(" ADDED") && !names.contains("PLAIN"), "{names}");
    let resources =
        kobune("set resources deploy web -n demo --requests=cpu=11m -o jsonpath={..resources.requests.cpu}");
    assert_eq!(resources, "11m");
    assert_eq!(kobune("expose deploy web -n demo --name=exposed"), "service/exposed exposed\n");
    assert_eq!(field("service/exposed", ".spec.selector"), r#"{"app":"web"}"#);
    assert_eq!(
        kobune("autoscale deploy web -n demo --max=3 --name=auto"),
        "horizontalpodautoscaler.autoscaling/auto autoscaled\n"
    );

    let edit = |editor: &str, object: &str| {
        let mut command = cluster.client(env!("CARGO_BIN_EXE_kobune"));
        command.args(["edit", object, "-n", "demo"]).env("EDITOR", editor).env("TMPDIR", &folder);
        Running::start(command, None).unwrap().finish(SETTLE).unwrap()
    };
    assert_eq!(edit("sed -i s/b:/c:/", "configmap/first").ok(), "configmap/first edited\n");
    assert_eq!(field("configmap/first", ".data"), r#"{"c":"2"}"#);
    assert_eq!(edit("true", "configmap/first").stderr, "Edit cancelled, no changes made.\n");
    let lost = edit("false", "configmap/first");
    assert_eq!(
        (lost.status.code(), lost.stderr.as_str()),
        (Some(1), "error: there was a problem with the editor \"false\"\n")
    );
    // What the server refuses is offered again; whoever then changes nothing gets a copy.
    let refused = edit("sed -i s/c:/c!:/", "configmap/first");
    assert_eq!(refused.status.code(), Some(1), "{}{}", refused.stdout, refused.stderr);
    for words in
        ["configmaps \"first\" is invalid", "A copy of your changes has been stored to", "no valid changes were saved"]
    {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }

    assert_eq!(
        kobune("delete configmap,service,hpa -n demo --field-selector=metadata.name=auto"),
        "horizontalpodautoscaler.autoscaling \"auto\" deleted from demo namespace\n"
    );
    let gone = kobune(&format!("delete -f {whole} --timeout=60s"));
    assert_eq!(gone, "configmap \"first\" deleted from demo namespace\n");
}

#[test]
fn everyday_verbs_beside_kubectl() {
    let cluster = cluster();
    let kubectl = kobune_testbed::tools().join("kubectl");
    let kobune = env!("CARGO_BIN_EXE_kobune");
    cluster.apply(OBJECTS);
    cluster.apply(&sleeper("lone", ""));
    cluster.kubectl(["wait", "--for=condition=Established", "crd/boats.x.io", "--timeout=60s"]).unwrap().ok();
    cluster.apply(BOAT);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/lone", "--timeout=90s"]).unwrap().ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "-n", "demo", "--timeout=90s"]).unwrap().ok();
    // Nothing of this changes anything that another one looks at, so several may be asked at once.
    let lines = std::sync::Mutex::new(ALIKE.iter());
    let next = || lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let compare = |line: &str| {
        eventually(&format!("kobune {line} says what kubectl says"), SETTLE, || {
            let (expected, got) = (said(&run(&cluster, &kubectl, line)), said(&run(&cluster, kobune, line)));
            if expected == got { Ok(()) } else { Err(format!("kubectl: {expected:#?}\nkobune: {got:#?}")) }
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(line) = next() {
                    compare(line);
                }
            });
        }
    });
    changes(&cluster);

    let copies = ["kubectl", "kobune"].map(|name| {
        let copy = cluster.data_dir().join(name);
        std::fs::create_dir(&copy).unwrap();
        let copy = copy.join("config");
        std::fs::copy(cluster.kubeconfig(), &copy).unwrap();
        copy
    });
    for line in CONFIG {
        let [expected, got] =
            [(kubectl.as_os_str(), &copies[0]), (kobune.as_ref(), &copies[1])].map(|(program, copy)| {
                let mut command = cluster.client(program);
                command.args(line.split(' ')).env("KUBECONFIG", copy);
                let (code, out, err) = said(&Running::start(command, None).unwrap().finish(SETTLE).unwrap());
                let place = copy.display().to_string();
                (code, out.replace(&place, "FILE"), err.replace(&place, "FILE"), std::fs::read_to_string(copy).unwrap())
            });
        assert_eq!(expected, got, "{line}");
    }

    let token = run(&cluster, kobune, "create token robot -n demo").ok();
    assert_eq!(token.split('.').count(), 3, "{token}");
    let version = run(&cluster, kobune, "version").ok();
    assert!(version.contains("Client Version: v1.36") && version.contains("\nServer Version: v1.36"), "{version}");

    // As a plug-in: kubectl runs whatever is called kubectl-NAME.
    let programs = cluster.data_dir().join("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in ["kubectl-kobune", "kobune"] {
        std::os::unix::fs::symlink(kobune, programs.join(name)).unwrap();
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = cluster.client(&kubectl);
    command.args(["kobune", "get", "pod", "lone", "-o", "name"]).env("PATH", &path);
    let through = Running::start(command, None).unwrap().finish(SETTLE).unwrap();
    assert_eq!(through.ok(), "pod/lone\n");

    let complete = |words: &str| {
        let script = format!(
            "source <(kobune completion bash); COMP_WORDS=(kobune {words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); \
             _kobune; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut command = cluster.client("bash");
        command.args(["-c", &script]).env("PATH", &path);
        let lines = Running::start(command, None).unwrap().finish(SETTLE).unwrap().ok();
        lines.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(complete("").contains(&"describe".to_owned()));
    assert!(complete("get").contains(&"boats".to_owned()));
    assert_eq!(complete("get boats -n demo"), ["one"]);
    assert!(complete("get -n").contains(&"demo".to_owned()));
    assert_eq!(complete("completion"), ["bash", "zsh", "fish", "powershell"]);
}
