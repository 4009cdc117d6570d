#!/bin/sh
# Process 1 of the test guest. The kernel command line says what to do with the ext4 file system on /dev/vda:
#
#   sds.mode=write    make files, fsync each, note their checksums
#   sds.mode=verify   check the files of an earlier boot against their checksums
#   sds.mode=load     write and fsync sds.count files, printing ACK n after each, while the server is killed outside
#
# Every line for the host starts with "GUEST ". The last one is "GUEST OK" only if all went well, and that includes the
# kernel's log: one I/O error there fails the boot. The machine is powered off in any case.

PATH=/bin
export PATH

say() { echo "GUEST $*"; }

fail() {
    say "FAILED $*"
    dmesg | tail -15
    poweroff -f
}

option() { sed -n "s/.*sds\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

# write_file NAME KILOBYTES: returns when data, checksum and names are on stable storage
write_file() {
    dd if=/dev/urandom of="/mnt/$1" bs=1k count="$2" conv=fsync 2>/dev/null || fail "writing $1"
    (cd /mnt && sha256sum "$1") | dd of=/mnt/manifest oflag=append conv=notrunc,fsync 2>/dev/null ||
        fail "writing the checksum of $1"
}

verify_files() {
    [ -s /mnt/manifest ] || fail "no data of an earlier boot"
    (cd /mnt && sha256sum -c manifest >/tmp/result 2>&1) || fail "checksums: $(grep -v OK /tmp/result | head -3)"
    say "verified $(wc -l </mnt/manifest) files"
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -gt 100 ] && fail "no /dev/vda"
    sleep 0.05
done
say "disk sectors=$(cat /sys/block/vda/size) cache=$(cat /sys/block/vda/cache_type | tr ' ' -)" \
    "discard=$(cat /sys/block/vda/queue/discard_max_bytes)"
mount -t ext4 -o discard /dev/vda /mnt || fail "mounting ext4"

mode=$(option mode)
case $mode in
write)
    n=0
    while [ $n -lt 8 ]; do
        write_file "file-$n" $((1 + n * 700))
        n=$((n + 1))
    done
    ;;
verify) ;;
load)
    count=$(option count)
    n=0
    while [ $n -lt "$count" ]; do
        write_file "load-$n" 64
        [ $((n % 8)) -eq 7 ] && fstrim /mnt
        n=$((n + 1))
        say "ACK $n"
    done
    echo 3 >/proc/sys/vm/drop_caches
    ;;
*) fail "unknown mode '$mode'" ;;
esac
verify_files
umount /mnt || fail "umount"
if dmesg | grep -iqE 'I/O error|EXT4-fs (error|warning)|Buffer I/O|aborted'; then
    fail "the kernel's log has errors"
fi
say "OK $mode"
poweroff -f
