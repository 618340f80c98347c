//! The command line: every command, flag, environment variable and default in one place.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kobune_network::dns::{Stub, dns64};

use crate::alone::{ControllersOptions, SchedulerAloneOptions};
use crate::api_options::ApiOptions;
use crate::csi::CsiOptions;
use crate::placement_options::PlacementOptions;
use crate::scheduler_options::SchedulerOptions;
use crate::simulate::SimulateOptions;
use crate::snapshot::SnapshotCommand;
use crate::storage::StorageOptions;

/// Kubernetes for small machines and far places, in one executable.
#[derive(Debug, Parser)]
#[command(name = "kobune", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the process's arguments, here without the program's name. What is wrong with them, help and version end the
    /// process.
    pub fn of(arguments: Vec<OsString>) -> Cli {
        // The commands and flags of the whole program take half a millisecond to put together, as much as `build` takes for
        // a small folder.
        if arguments.first().is_some_and(|word| word == "build") {
            return Cli { command: Command::Build(Build::parse_from(arguments).options) };
        }
        Cli::parse()
    }
}

/// `build` as a command line of its own.
#[derive(Debug, Parser)]
#[command(name = "build", bin_name = "kobune build", display_name = "kobune-build", version)]
#[command(about = "Print what a kustomization folder or repository comes to", long_about = None)]
struct Build {
    #[command(flatten)]
    options: kobune_cli::BuildOptions,
}

/// kobune's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole one-node cluster: API server, controllers, scheduler and this machine as its node
    Up(UpOptions),
    /// Run the API server, the controllers and the scheduler, without a node
    Server(UpOptions),
    /// Run this machine as a node of a cluster that is elsewhere
    Agent(AgentOptions),
    /// Run the controllers alone, for an API server that is elsewhere, be it kobune's or another one
    Controllers(ControllersOptions),
    /// Run the scheduler alone, for an API server that is elsewhere, be it kobune's or another one
    Scheduler(SchedulerAloneOptions),
    /// Run the driver of local volumes alone, for whoever speaks CSI
    Csi(CsiOptions),
    /// Run a cluster whose nodes are not there: as many as you like, whose pods run at once
    Simulate(SimulateOptions),
    /// Show what applying manifests would change, field by field
    Plan(kobune_cli::PlanOptions),
    /// Show the same through a program such as diff
    Diff(kobune_cli::DiffOptions),
    /// Apply manifests to a cluster and wait until everything is ready
    Apply(kobune_cli::ApplyOptions),
    /// List the revisions of a set of objects that were applied with --applyset
    History(kobune_cli::HistoryOptions),
    /// Apply an earlier revision of a set of objects again
    Rollback(kobune_cli::RollbackOptions),
    /// Keep objects as git repositories have them: tends the Syncs of any cluster
    Sync(kobune_cli::SyncOptions),
    /// Print objects in tables, as JSON or as YAML
    Get(kobune_cli::GetOptions),
    /// Make objects, from manifests or from a few words
    Create(kobune_cli::CreateOptions),
    /// Print what the fields of a kind mean
    Explain(kobune_cli::ExplainOptions),
    /// Describe objects with what is around them and what happened to them
    Describe(kobune_cli::DescribeOptions),
    /// Print what containers say
    Logs(kobune_cli::LogsOptions),
    /// Delete objects and wait until they are gone
    Delete(kobune_cli::DeleteOptions),
    /// Run a command in a container
    Exec(kobune_cli::ExecOptions),
    /// Attach to what a container runs
    Attach(kobune_cli::AttachOptions),
    /// Make ports of a pod ports of this machine
    PortForward(kobune_cli::PortForwardOptions),
    /// Copy files and folders into containers and out of them
    Cp(kobune_cli::CpOptions),
    /// Watch, restart, pause and undo rollouts of workloads
    #[command(subcommand)]
    Rollout(kobune_cli::RolloutCommand),
    /// Wait until objects are as they should be
    Wait(kobune_cli::WaitOptions),
    /// Print what happened
    Events(kobune_cli::EventsOptions),
    /// Print what pods and nodes use
    #[command(subcommand)]
    Top(kobune_cli::TopCommand),
    /// Set and remove labels
    Label(kobune_cli::MarkOptions),
    /// Set and remove annotations
    Annotate(kobune_cli::MarkOptions),
    /// Change fields of objects
    Patch(kobune_cli::PatchOptions),
    /// Keep new pods away from nodes
    Cordon(kobune_cli::CordonOptions),
    /// Let pods come to nodes again
    Uncordon(kobune_cli::CordonOptions),
    /// Take a node's pods away, before somebody works on it
    Drain(kobune_cli::DrainOptions),
    /// Set and remove taints of nodes
    Taint(kobune_cli::TaintOptions),
    /// Run an image in a pod at once
    Run(kobune_cli::RunOptions),
    /// Set one thing of objects
    #[command(subcommand)]
    Set(kobune_cli::SetCommand),
    /// Set how many pods a workload has
    Scale(kobune_cli::ScaleOptions),
    /// Let an autoscaler set how many pods a workload has
    Autoscale(kobune_cli::AutoscaleOptions),
    /// Make a Service for the pods of something
    Expose(kobune_cli::ExposeOptions),
    /// Replace objects by what manifests say, whole
    Replace(kobune_cli::ReplaceOptions),
    /// Change objects in an editor
    Edit(kobune_cli::EditOptions),
    /// Let certificates be signed, or not
    #[command(subcommand)]
    Certificate(kobune_cli::CertificateCommand),
    /// Ask what the user may do, and who that is
    #[command(subcommand)]
    Auth(kobune_cli::AuthCommand),
    /// Print what the API server serves
    ApiResources(kobune_cli::ApiResourcesOptions),
    /// Print the versions of groups that the API server serves
    ApiVersions(kobune_cli::ApiVersionsOptions),
    /// Print where the API server and the cluster's services are
    ClusterInfo(kobune_cli::ClusterInfoOptions),
    /// Print the versions of this program and of the API server
    Version(kobune_cli::VersionOptions),
    /// Print a script that completes command lines in a shell
    Completion(kobune_cli::CompletionOptions),
    /// Print what may stand at the end of a command line; shells ask for it
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far, the last one being typed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print what a kustomization folder or repository comes to
    Build(kobune_cli::BuildOptions),
    /// Make, list and delete tokens with which machines join
    #[command(subcommand)]
    Token(kobune_cli::TokenCommand),
    /// Stop kobune and its pods; with --purge take away everything it made
    Down(DownOptions),
    /// Save all objects of a cluster to a file while it runs, and restore them
    Snapshot {
        /// What to do with snapshots.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Load, pull, list and remove container images
    Image {
        /// What to do with images.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look at kubeconfigs and change them; `config show` prints kobune's own settings
    Config {
        /// What to do with them.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Run one of the small programs that the image kobune.local/kobune offers, such as http-echo
    #[command(disable_help_flag = true)]
    Tool,
    /// Hold the containers of one pod; kobune starts this by itself
    #[command(hide = true, disable_help_flag = true)]
    Shim,
}

/// Where an instance lives.
#[derive(Debug, Clone, Args)]
pub struct InstanceOptions {
    /// The folder that holds everything of this instance
    #[arg(long, value_name = "DIR", env = "KOBUNE_DATA_DIR", default_value = "/var/lib/kobune")]
    pub data_dir: PathBuf,
}

/// The flags of `up` and `server`.
#[derive(Debug, Clone, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub instance: InstanceOptions,
    /// The port of the API server
    #[arg(long, env = "KOBUNE_PORT", default_value_t = 6443)]
    pub port: u16,
    /// The address to listen on for the API and the node's HTTP API [default: every address]
    #[arg(long, value_name = "ADDRESS", env = "KOBUNE_BIND_ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Further names or addresses that the API server's certificate is valid for
    #[arg(long, value_name = "NAME", env = "KOBUNE_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// The addresses of Services: one range, or one of each family, the cluster's own first
    #[arg(
        long,
        value_name = "CIDR",
        env = "KOBUNE_SERVICE_CIDR",
        default_value = "10.96.0.0/16",
        value_delimiter = ','
    )]
    pub service_cidr: Vec<ipnet::IpNet>,
    /// The ports of Services of type NodePort, first-last
    #[arg(long, value_name = "RANGE", env = "KOBUNE_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767")]
    pub service_node_port_range: PortRange,
    /// The addresses of pods: one range, or one of each family; each node gets a part of them
    #[arg(
        long,
        value_name = "CIDR",
        env = "KOBUNE_CLUSTER_CIDR",
        default_value = "10.244.0.0/16",
        value_delimiter = ','
    )]
    pub cluster_cidr: Vec<ipnet::IpNet>,
    /// The domain of Services
    #[arg(long, value_name = "DOMAIN", env = "KOBUNE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Parts that are not started here because they run elsewhere
    #[arg(long, value_name = "PART", env = "KOBUNE_WITHOUT", value_delimiter = ',')]
    pub without: Vec<Part>,
    #[command(flatten)]
    pub ingress: IngressOptions,
    /// Tend Syncs: keep objects as git repositories have them (see `kobune sync --help`)
    #[arg(long, env = "KOBUNE_SYNC")]
    pub sync: bool,
    #[command(flatten)]
    pub sync_settings: kobune_cli::SyncSettings,
    #[command(flatten)]
    pub storage: StorageOptions,
    #[command(flatten)]
    pub api: ApiOptions,
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    #[command(flatten)]
    pub node: NodeOptions,
}

/// A part of a server that can run elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// See `kobune controllers`
    Controllers,
    /// See `kobune scheduler`
    Scheduler,
}

impl Part {
    /// The part as the flag names it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Controllers => "controllers",
            Part::Scheduler => "scheduler",
        }
    }
}

/// The flags of the Ingress proxy.
#[derive(Debug, Clone, Args)]
pub struct IngressOptions {
    /// Serve Ingresses of class kobune at this machine's addresses
    #[arg(long, env = "KOBUNE_INGRESS")]
    pub ingress: bool,
    /// The port of plain HTTP for Ingresses
    #[arg(long, value_name = "PORT", env = "KOBUNE_INGRESS_HTTP_PORT", default_value_t = 80)]
    pub ingress_http_port: u16,
    /// The port of HTTPS for Ingresses
    #[arg(long, value_name = "PORT", env = "KOBUNE_INGRESS_HTTPS_PORT", default_value_t = 443)]
    pub ingress_https_port: u16,
}

/// The flags of a machine that runs pods.
#[derive(Debug, Clone, Args)]
pub struct NodeOptions {
    /// The node's name [default: the host name]
    #[arg(long, value_name = "NAME", env = "KOBUNE_NODE_NAME")]
    pub node_name: Option<String>,
    /// The node's address, or one of each family [default: those of the default route's link]
    #[arg(long, value_name = "ADDRESS", env = "KOBUNE_NODE_IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// How pods of other nodes are reached: by plain routes, which needs nodes on one link; by VXLAN where there is no
    /// such route; or by what somebody else sets up
    #[arg(long, value_name = "BACKEND", env = "KOBUNE_BACKEND", default_value = "host-gw")]
    pub backend: Backend,
    /// Who attaches pods: kobune itself, or CNI plug-ins, whose business routes between nodes and network policies are then
    #[arg(long, value_name = "NETWORK", env = "KOBUNE_NETWORK", default_value = "kobune")]
    pub network: PodNetwork,
    /// The folder of CNI network configurations; the first by name counts, and it is followed
    #[arg(long, value_name = "DIR", env = "KOBUNE_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// The folders of CNI plug-ins
    #[arg(
        long,
        value_name = "DIR[,DIR...]",
        env = "KOBUNE_CNI_BIN_DIR",
        value_delimiter = ',',
        default_value = "/opt/cni/bin"
    )]
    pub cni_bin_dir: Vec<PathBuf>,
    /// A domain that other resolvers than the host's know about: names in it are asked of these
    #[arg(long, value_name = "DOMAIN=ADDRESS[,ADDRESS...]", env = "KOBUNE_DNS_STUB_DOMAIN", value_delimiter = ';')]
    pub dns_stub_domain: Vec<Stub>,
    /// The prefix of the network's NAT64: names that have only IPv4 addresses are answered with IPv6 ones in it [usually
    /// 64:ff9b::/96]
    #[arg(long, value_name = "PREFIX", env = "KOBUNE_DNS64_PREFIX", value_parser = parse_dns64)]
    pub dns64_prefix: Option<ipnet::Ipv6Net>,
    /// The port of the node's own HTTP API, 0 for any free one
    #[arg(long, value_name = "PORT", env = "KOBUNE_NODE_PORT", default_value_t = 10250)]
    pub node_port: u16,
    /// Labels to register the node with
    #[arg(long, value_name = "KEY=VALUE", env = "KOBUNE_NODE_LABELS", value_delimiter = ',', value_parser = parse_label)]
    pub node_label: Vec<(String, String)>,
    /// How many pods the node takes
    #[arg(long, value_name = "COUNT", env = "KOBUNE_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// The folder of static pods' manifests, which run with or without an API server [default: manifests in the data
    /// folder]
    #[arg(long, value_name = "DIR", env = "KOBUNE_POD_MANIFEST_PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// A CredentialProviderConfig of the kubelet: programs that know credentials of registries
    #[arg(
        long,
        value_name = "FILE",
        env = "KOBUNE_IMAGE_CREDENTIAL_PROVIDER_CONFIG",
        requires = "image_credential_provider_bin_dir"
    )]
    pub image_credential_provider_config: Option<PathBuf>,
    /// The folder of those programs
    #[arg(
        long,
        value_name = "DIR",
        env = "KOBUNE_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR",
        requires = "image_credential_provider_config"
    )]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Run pods with the container runtime behind this socket, by CRI v1, instead of the one built in: such as
    /// unix:///run/containerd/containerd.sock; without hostUsers: false and devices' hooks (docs/runtimes.md)
    #[arg(long, value_name = "ENDPOINT", env = "KOBUNE_CONTAINER_RUNTIME_ENDPOINT", value_parser = parse_endpoint)]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// OCI runtimes for RuntimeClasses, NAME=PATH [default: runc, crun and youki where they are installed]
    #[arg(long, value_name = "NAME=PATH", env = "KOBUNE_RUNTIME_HANDLERS", value_delimiter = ',', value_parser = parse_handler)]
    pub runtime_handler: Vec<(String, PathBuf)>,
    #[command(flatten)]
    pub placement: PlacementOptions,
    /// Below what pods are evicted at once, such as memory.available<100Mi,nodefs.available<5%; "" for never [default:
    /// memory.available<100Mi, and 5 % of nodefs.available, nodefs.inodesFree and pid.available]
    #[arg(long, value_name = "THRESHOLDS", env = "KOBUNE_EVICTION_HARD")]
    pub eviction_hard: Option<String>,
    /// Below what pods are evicted with their grace period, as in --eviction-hard
    #[arg(long, value_name = "THRESHOLDS", env = "KOBUNE_EVICTION_SOFT")]
    pub eviction_soft: Option<String>,
    /// How many seconds that must last
    #[arg(long, value_name = "SECONDS", env = "KOBUNE_EVICTION_SOFT_GRACE_PERIOD", default_value_t = 90)]
    pub eviction_soft_grace_period: u64,
}

/// The flags of `agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    #[command(flatten)]
    pub instance: InstanceOptions,
    /// The API server of the cluster to join, such as https://192.0.2.1:6443
    #[arg(long, value_name = "URL", env = "KOBUNE_SERVER", requires = "token")]
    pub server: Option<String>,
    /// The token to join with, of `kobune token create` or kubeadm
    #[arg(long, value_name = "TOKEN", env = "KOBUNE_TOKEN", hide_env_values = true, requires = "server")]
    pub token: Option<String>,
    /// Hashes that the public key of the cluster's authority must have one of, sha256:<hex> [default: the token's
    /// signature is enough]
    #[arg(long, value_name = "HASH", env = "KOBUNE_CA_CERT_HASH", value_delimiter = ',')]
    pub discovery_token_ca_cert_hash: Vec<String>,
    /// A kubeconfig that may ask for the node's certificate, in place of a token
    #[arg(long, value_name = "FILE", env = "KOBUNE_AGENT_KUBECONFIG", conflicts_with = "server")]
    pub kubeconfig: Option<PathBuf>,
    /// The address to listen on for the node's HTTP API [default: every address]
    #[arg(long, value_name = "ADDRESS", env = "KOBUNE_BIND_ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// The addresses of Services [default: what the cluster says]
    #[arg(long, value_name = "CIDR", env = "KOBUNE_SERVICE_CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<ipnet::IpNet>,
    /// The addresses of all pods of the cluster [default: what the cluster says]
    #[arg(long, value_name = "CIDR", env = "KOBUNE_CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<ipnet::IpNet>,
    /// The addresses of this node's pods [default: what the cluster gives it]
    #[arg(long, value_name = "CIDR", env = "KOBUNE_POD_CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<ipnet::IpNet>,
    /// The domain of Services [default: what the cluster says]
    #[arg(long, value_name = "DOMAIN", env = "KOBUNE_CLUSTER_DOMAIN")]
    pub cluster_domain: Option<String>,
    #[command(flatten)]
    pub node: NodeOptions,
}

/// Who attaches pods to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PodNetwork {
    /// kobune itself.
    Kobune,
    /// CNI plug-ins.
    Cni,
}

/// How pods of other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// By plain routes.
    HostGw,
    /// By plain routes where nodes share a link, and by VXLAN elsewhere.
    Vxlan,
    /// By nothing that kobune does.
    None,
}

/// The flags of `down`.
#[derive(Debug, Clone, Args)]
pub struct DownOptions {
    #[command(flatten)]
    pub instance: InstanceOptions,
    /// Also remove all data: cluster, images, volumes, keys
    #[arg(long)]
    pub purge: bool,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Add the images of an OCI or docker archive (plain, gzip or zstd)
    Load {
        #[command(flatten)]
        instance: InstanceOptions,
        /// The archive, - for standard input
        #[arg(value_name = "FILE")]
        archive: PathBuf,
    },
    /// Fetch an image from its registry
    Pull {
        #[command(flatten)]
        instance: InstanceOptions,
        /// The image, such as docker.io/library/busybox:1.37
        #[arg(value_name = "IMAGE")]
        reference: String,
    },
    /// List the images
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        instance: InstanceOptions,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Remove images by name or id
    #[command(visible_alias = "remove")]
    Rm {
        #[command(flatten)]
        instance: InstanceOptions,
        /// The images
        #[arg(value_name = "IMAGE", required = true)]
        references: Vec<String>,
    },
}

/// What can be done with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what would be in force for `kobune up` with these flags and this environment
    Show(Box<UpOptions>),
    /// What kubectl does with kubeconfigs.
    #[command(flatten)]
    Kubeconfig(Box<kobune_cli::KubeconfigCommand>),
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match parsed {
            Some((first, last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err("expected two ports, first-last".to_owned()),
        }
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn parse_dns64(text: &str) -> Result<ipnet::Ipv6Net, String> {
    let prefix: ipnet::Ipv6Net = text.parse().map_err(|error| format!("{error}"))?;
    if dns64::LENGTHS.contains(&prefix.prefix_len()) {
        return Ok(prefix.trunc());
    }
    Err(format!("a NAT64 prefix has one of the lengths {:?}", dns64::LENGTHS))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_endpoint(text: &str) -> Result<PathBuf, String> {
    kobune_cri::socket_of(text).map_err(|error| error.to_string())
}

fn parse_handler(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=PATH")?;
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok((name.to_owned(), path)) } else { Err("expected an absolute path".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        Build::command().debug_assert();
    }

    #[test]
    fn build_alone_is_the_build_among_all() {
        let arguments = ["build", "folder", "-o", "file", "--enable-helm"];
        let alone = Cli::of(arguments.map(OsString::from).to_vec());
        let among_all = Cli::parse_from(["kobune"].into_iter().chain(arguments));
        assert_eq!(format!("{alone:?}"), format!("{among_all:?}"));
        let command = Cli::command();
        let build = command.find_subcommand("build").expect("a command");
        assert_eq!(build.get_about().map(ToString::to_string), Build::command().get_about().map(ToString::to_string));
    }

    #[test]
    fn port_ranges() {
        let check = |text: &str, expected: Option<(u16, u16)>| {
            let got = text.parse::<PortRange>().ok().map(|range| (range.first, range.last));
            assert_eq!(got, expected, "{text}");
        };
        check("30000-32767", Some((30000, 32767)));
        check("5-5", Some((5, 5)));
        check("6-5", None);
        check("0-5", None);
        check("5", None);
        check("a-b", None);
        check("1-70000", None);
    }
}
