# Says what a container sees of its attributes, in lines that two engines can be compared by.
grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap...|SigIgn|SigBlk):' /proc/self/status
echo "oom $(cat /proc/self/oom_score_adj)"
echo "umask $(umask)"
sort /proc/mounts | sed -E 's/(lowerdir|upperdir|workdir)=[^ ,]*/\1=X/g; s/^[^ ]* /X /; s/size=[0-9]+k,nr_inodes=[0-9]+/size=X/' |
    sed -E 's/,inode64|,uuid=on|,nouserxattr|,xino=[a-z]+|,metacopy=off|,redirect_dir=[a-z]+|,index=off//g' | sed 's/^/mount /'
ls -l /dev | awk 'NR > 1 { print "dev", $1, $3, $4, ($1 ~ /^[bc]/ ? $5 $6 : ""), $NF }'
ulimit -a | sed 's/^/ulimit /'
for file in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.swappiness \
    memory/memory.oom_control cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max \
    cpuset/cpuset.cpus devices/devices.list; do
    [ -r "/sys/fs/cgroup/$file" ] && sed "s|^|cgroup $file |" "/sys/fs/cgroup/$file"
done
for name in pid ipc uts net; do
    echo "namespace $name $([ "$(readlink /proc/self/ns/$name)" = "$(readlink /proc/1/ns/$name)" ] && echo own)"
done
for name in kernel/msgmax net/core/somaxconn net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range; do
    echo "sysctl $name $(cat /proc/sys/$name)"
done
grep -v '^nameserver' /etc/resolv.conf | sed 's/^/resolv /'
grep -E '10\.1\.2\.3|localhost' /etc/hosts | sed 's/^/hosts /'
env | grep -v '^HOSTNAME=' | sort | sed 's/^/env /'
pwd | sed 's/^/cwd /'
echo done
