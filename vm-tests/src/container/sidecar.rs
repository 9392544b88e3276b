//! One sidecar's container: the program and its translators, in the pod's network, as the pod's user, without a right,
//! on a file system that cannot be written but for the folder of its sockets. It must never be asked through anything
//! but what KubeVirt has, or a person who looks from outside.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::{Hooks, MOUNT_POINT, POD_USER, identity};
use crate::lab::{Child, Lab, MemoryGroup, SERVER_V4};
use crate::translator;

/// Of its translators, as the kernel shortens it.
const TRANSLATOR: &str = "passt-rs";

/// What the image has, at the root.
const PROGRAMS: [&str; 2] = ["sluice-sidecar", TRANSLATOR];

/// What a plugin's container mounts besides.
const PLUGIN_FOLDER: &str = "var/run/kubevirt-plugin/sluice";

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How one container is set up.
#[derive(Debug)]
pub struct Options<'lab> {
    /// `hook-sidecar-N`
    pub name: &'lab str,
    /// The key in the KubeVirt CR.
    pub binding: &'lab str,
    /// The container's memory limit.
    pub memory: Option<&'lab MemoryGroup>,
    /// What kubelet writes of the pod's DNS.
    pub resolv_conf: String,
    /// Stands in for passt-rs.
    pub translator: Option<&'lab Path>,
}

impl<'lab> Options<'lab> {
    pub fn new(name: &'lab str, binding: &'lab str) -> Self {
        Self {
            name,
            binding,
            memory: None,
            resolv_conf: format!(
                "search demo.svc.cluster.local svc.cluster.local cluster.local\nnameserver {SERVER_V4}\n\
                 options ndots:5\n"
            ),
            translator: None,
        }
    }
}

/// A running sidecar. It ends with the value, or with the thread that started it.
#[derive(Debug)]
pub struct Sidecar<'lab> {
    lab: &'lab Lab,
    child: Child,
    /// Its part of the volume, by its path outside.
    folder: PathBuf,
    root: PathBuf,
    environment: [(&'static str, String); 5],
}

impl<'lab> Sidecar<'lab> {
    /// Starts the program; whether and when it serves is for KubeVirt to find out.
    pub fn start(lab: &'lab Lab, hooks: &Hooks, options: &Options<'_>) -> anyhow::Result<Self> {
        let folder = hooks.of(options.name)?;
        let root = lab.directory().join(format!("{}.root", options.name));
        lay_out(&root, &options.resolv_conf)?;
        let mut command = lab.pod().command("unshare");
        if let Some(memory) = options.memory {
            memory.holds(&mut command)?;
        }
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is text");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script(), "sh"]);
        command.arg(text(&root)?).arg(text(&folder)?);
        command.arg(text(&crate::lab::binary("sluice-sidecar")?)?);
        match options.translator {
            Some(program) => command.arg(text(program)?),
            None => command.arg(text(&translator::program()?)?),
        };
        // Who is root of the machine can become anybody.
        let can_change = std::fs::metadata(&folder).is_ok_and(|data| data.uid() == POD_USER);
        command.args(identity(POD_USER, can_change));
        if can_change {
            command.args(["--pdeathsig", "KILL"]); // a change of user forgets it
        }
        // What KubeVirt sets.
        let environment = [
            ("CONTAINER_NAME", options.name),
            ("NETWORK_BINDING_PLUGIN_NAME", options.binding),
            ("XDG_CACHE_HOME", "/var/run/kubevirt-private"),
            ("XDG_CONFIG_HOME", "/var/run/kubevirt-private"),
            ("XDG_RUNTIME_DIR", "/var/run"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        command.arg("/sluice-sidecar").env_clear().env("PATH", PATH).envs(environment.iter().cloned());
        let child = lab.spawn(options.name, command)?;
        Ok(Self { lab, child, folder, root, environment })
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn log(&self) -> String {
        self.child.log()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.has_ended()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.child.signal(signal)
    }

    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.child.wait(limit)
    }

    /// Its part of the volume, by its path outside.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The socket a `Plugin` names, by its path outside.
    pub fn plugin_socket(&self) -> PathBuf {
        self.root.join(PLUGIN_FOLDER).join("domain-hook.sock")
    }

    /// Sockets that are left in its folders.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let mut sockets = Vec::new();
        let mut folders = vec![self.folder.clone(), self.root.join(PLUGIN_FOLDER)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_socket() => sockets.push(entry.path()),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        sockets
    }

    /// Processes of translators in the pod, of this sidecar or another, or of none any more.
    pub fn translators_in_pod(&self) -> Vec<u32> {
        let processes = self.lab.pod().processes().into_iter();
        processes.filter(|(_, name)| name == TRANSLATOR).map(|(pid, _)| pid).collect()
    }

    /// Processes of its own translators.
    pub fn translators(&self) -> Vec<u32> {
        let ours = self.children();
        self.translators_in_pod().into_iter().filter(|pid| ours.contains(pid)).collect()
    }

    /// Its children, those that have ended and were not waited for among them.
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let all = std::fs::read_to_string(path).unwrap_or_default();
        all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Ends its translators as a crash would.
    pub fn kill_translators(&self) -> anyhow::Result<()> {
        let pids = self.translators();
        anyhow::ensure!(!pids.is_empty(), "{} has no translator", self.pid());
        for pid in pids {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
            rustix::process::kill_process(pid, Signal::KILL).context("kill a translator")?;
        }
        Ok(())
    }

    /// Memory of the sidecar itself, without its translators': what is resident, of its program's file too.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kibibytes.with_context(|| format!("no VmRSS in {path}"))? * 1024)
    }

    /// What it tells a person who runs `sluice-sidecar status --json` in its container.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        let mut command = Command::new("nsenter");
        let pid = self.pid().to_string();
        // Of this machine's programs only nsenter runs; the rest is the container's.
        command.args(["--target", &pid, "--mount", "--net", "--wd=/", "/sluice-sidecar", "status", "--json"]);
        command.env_clear().env("PATH", PATH).envs(self.environment.iter().cloned());
        let output = command.stdin(Stdio::null()).output().context("run the sidecar's program once more")?;
        let (said, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "status: {}: {}", output.status, complaint.trim());
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }
}

/// What the image and Kubernetes have there, as far as it is files and not mounts.
fn lay_out(root: &Path, resolv_conf: &str) -> anyhow::Result<()> {
    for folder in ["etc", "proc", "sys", "dev", "usr", &MOUNT_POINT[1..], PLUGIN_FOLDER] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // Only in a plugin's container it is a volume; it is one here all the same.
    let _ = chown(root.join(PLUGIN_FOLDER), Some(POD_USER), Some(POD_USER));
    for program in PROGRAMS {
        std::fs::write(root.join(program), "").with_context(|| format!("a place for {program}"))?;
    }
    std::fs::write(root.join("etc/resolv.conf"), resolv_conf).context("write resolv.conf")
}

/// `sh -c` with: the root, the folder of sockets, the two programs, and the command to run there. The programs are
/// mounted rather than copied: they are large, and the folder they are in may be closed to other users.
fn script() -> String {
    format!(
        "root=$1 hooks=$2
         mount --bind \"$root\" \"$root\"
         mount --rbind /proc \"$root/proc\"
         mount --rbind /sys \"$root/sys\"
         mount --rbind /dev \"$root/dev\"
         mount --bind -o ro /usr \"$root/usr\"
         for folder in lib lib64 bin sbin; do
             if [ -L /$folder ]; then
                 ln -sfn \"$(readlink /$folder)\" \"$root/$folder\"
             elif [ -d /$folder ]; then
                 mkdir \"$root/$folder\"
                 mount --bind -o ro /$folder \"$root/$folder\"
             fi
         done
         mount --bind \"$hooks\" \"$root{MOUNT_POINT}\"
         mount --bind \"$root/{PLUGIN_FOLDER}\" \"$root/{PLUGIN_FOLDER}\"
         mount --bind -o ro \"$3\" \"$root/{sidecar}\"
         mount --bind -o ro \"$4\" \"$root/{translator}\"
         mount -o remount,bind,ro \"$root\"
         shift 4
         cd \"$root\"
         pivot_root . .
         umount --lazy .
         cd /
         exec \"$@\"",
        sidecar = PROGRAMS[0],
        translator = PROGRAMS[1],
    )
}
