"""The text that a POSIX ``sh`` runs on a board to build engines with ``trtexec`` and to time them.

No Python is needed there. `edgenas.clock.shell` sends the text. Each order is one line on stdin:
the bytes of the model, of the timing cache and of the inputs; the seconds it may take; which files
are wanted back (``-`` or letters: e engine, y outputs); and the options, with ``@`` for the folder
of the order. The bytes follow. The answer is a line of numbers, then as many bytes; then the other
side sends an empty line, and may send the next order. The end of stdin ends all.

The folder of an order lies in memory where it has room, and goes with the order, however that ends.
After a kill -9 or without power it stays, until a later session removes it. One session at a time
uses the tool: it holds a lock on the tool's own file, so that no lock file is left. The clocks of
other runtimes hold that lock too (`edgenas.clock.board.serve`).

The tool's two streams are pipes whose ends are all open before it starts: a reader that opened its
end itself would wait for ever where the tool is ended before it has opened the other. Signals go to
the group of processes that ``timeout`` makes, and again each second: a ``timeout`` that has only
just begun ends without its child, and a shell that has only just been forked can lose a signal.
"""

RUN_TEXT = r"""
umask 077; set -f; LC_ALL=C; export LC_ALL; exec 3<&0 </dev/null
d=; p=; w=; q=; a=; b=
clean() {
  kill -- ${p:+-$p} $p $w $q $a $b 2>/dev/null; p=; w=; q=; a=; b=
  [ -z "$d" ] || rm -rf "$d"; d=
}
trap 'trap "" HUP INT TERM PIPE; clean; wait' EXIT
trap 'exit 143' HUP INT TERM PIPE
set +f
for t in /usr/src/tensorrt/bin/trtexec /usr/bin/trtexec /opt/tensorrt/bin/trtexec; do
  t=${EDGENAS_BOARD_ROOT-}$t; [ -x "$t" ] && break
done
[ -x "$t" ] || t=$(command -v trtexec)
[ -x "$t" ] || { echo "edgenas none"; exit 69; }
find /dev/shm /tmp -maxdepth 1 -name "edgenas-trt.*" -user "$(id -un)" -mmin +720 \
  -exec rm -rf {} + 2>/dev/null
g=
for x in /sys/class/devfreq/*; do
  case $(tr -d "\000" <"$x/device/of_node/name" 2>/dev/null) in
    gv11b|gp10b|ga10b|gb10b|gm20b|gpu) g=$x; break ;;
  esac
done
z=
for x in /sys/class/thermal/thermal_zone*; do
  case $(cat "$x/type" 2>/dev/null) in *[gG][pP][uU]*) z=$x; break ;; esac
done
set -f
one() { v=; [ -f "$1" ] && { read -r v <"$1"; } 2>/dev/null; printf "%s" "${v:--}" | tr -d " \t"; }
size() { echo $(($(wc -c <"$1"))); }
echo "edgenas ready"
l=
while read -r n c i s k f <&3; do
  [ -n "$n" ] || continue
  if [ -z "$l" ] && command -v flock >/dev/null; then
    exec 9<"$t"
    until flock -n 9; do echo "edgenas waiting"; sleep 1; done
    l=1
  fi
  need=$(((3 * n + 2 * c + i) / 1024 + 16384))
  u="/dev/shm /tmp"; [ "$n" -lt 50000000 ] || u="/tmp /dev/shm"
  for x in $u; do
    set -- $(df -Pk "$x" 2>/dev/null | tail -n 1)
    [ "${4:-0}" -gt $need ] 2>/dev/null && d=$(mktemp -d "$x/edgenas-trt.XXXXXX") && break
    d=
  done
  [ -n "$d" ] || { echo "edgenas full $need"; exit 73; }
  head -c "$n" <&3 >"$d/m" && head -c "$c" <&3 >"$d/c" && head -c "$i" <&3 >"$d/i" ||
    { echo "edgenas full $need"; exit 73; }
  [ "$(size "$d/m")" -eq "$n" ] && [ "$(size "$d/i")" -eq "$i" ] || exit 65
  [ "$c" -gt 0 ] || rm -f "$d/c"
  f=$(printf "%s" "$f" | sed "s|@|$d|g")
  before=$(one "$g/min_freq"),$(one "$g/max_freq"),$(one /var/lib/nvpmodel/status)
  mkfifo "$d/1" "$d/2" || exit 73
  exec 8<>"$d/1" 4<"$d/1" 5>"$d/1" && exec 8<>"$d/2" 6<"$d/2" 7>"$d/2" 8>&-
  head -c 4000000 <&4 >"$d/o" 4<&- 5>&- 6<&- 7>&- 9<&- & a=$!
  head -c 4000000 <&6 >"$d/r" 4<&- 5>&- 6<&- 7>&- 9<&- & b=$!
  timeout -k 5 "$s" "$t" $f >&5 2>&7 </dev/null 3<&- 4<&- 5>&- 6<&- 7>&- 9<&- & p=$!
  exec 4<&- 5>&- 6<&- 7>&-
  (read -r x <&3 || for x in TERM TERM TERM TERM TERM KILL; do
    kill -s $x -- -$p || kill -s $x $p || break; sleep 1
  done) 2>/dev/null 9<&- & w=$!
  (while [ -n "$g" ]; do cat "$g/cur_freq"; sleep 0.2 || sleep 1; done) \
    >"$d/f" 2>/dev/null 3<&- 9<&- & q=$!
  wait $p; r=$?; p=
  kill $q 2>/dev/null; wait $q; q=
  wait $a $b; a=; b=
  after=$(one "$g/min_freq"),$(one "$g/max_freq"),$(one /var/lib/nvpmodel/status)
  for x in t c e y f; do [ -f "$d/$x" ] || : >"$d/$x"; done
  for x in e y; do case $k in *$x*) ;; *) : >"$d/$x" ;; esac; done
  sed -n 's/.*"startEnqMs" : \([^,]*\), "endEnqMs" : \([^,]*\),.*"startComputeMs" : \([^,]*\),'\
'.* "computeMs" : \([^,]*\),.*/[\1,\2,\3,\4]/p' "$d/t" | tail -n 20000 >"$d/j"
  head -c 400 "$d/o" >"$d/h"; tail -c 60000 "$d/o" >"$d/1o"; tail -c 60000 "$d/r" >"$d/1r"
  tail -n 10 "$d/f" >"$d/1f"
  printf "edgenas answer %s %s %s %s" "$r" "$before" "$after" "$(one "$z/temp")"
  for x in h j 1o 1r 1f c e y; do printf " %s" "$(size "$d/$x")"; done; echo
  for x in h j 1o 1r 1f c e y; do cat "$d/$x"; done
  wait $w; w=
  clean
done
"""
