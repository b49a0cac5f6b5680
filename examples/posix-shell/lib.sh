# shellcheck shell=sh
# What send.sh and receive.sh share: the state directory, addresses, the key, and bytes that a shell cannot hold.
# Sourced, not run. The format is described in docs/reference/state-on-disk.md.
#
# A shell's text ends at a NUL and loses newlines at its end, so bytes of unknown content are kept as text: in hex, or
# as the escapes `\0ooo` that `printf %b` turns back, five characters a byte.

LC_ALL=C # lengths in bytes, names in the order of their bytes
export LC_ALL
set -u -C # -C: `>` makes new files only; nothing is overwritten, no link is followed
umask 077 # folders 0700, files 0600

# What comes from the environment under one of these names would be exported, the key along with it. And the variable
# with the key is not for openssl and the others to inherit.
unset -v given secret subkey padded left rest octets
given=${MNEMOSYNE_SHARED_SECRET-}
unset -v MNEMOSYNE_SHARED_SECRET

user=$(id -u)

# shellcheck disable=SC2034 # used by who sources this
LIMIT=1024 SEAL=80 # bytes of a message as stored, and of the signature's member at its end

fail() { # EXIT_CODE MESSAGE
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

need() { # PROGRAM...
  # Keys are arguments of printf. As a builtin it has no command line in /proc; as a program it would show them.
  [ "$(command -v printf)" = printf ] || fail 7 'this shell has no builtin printf'
  for program; do
    command -v "$program" >/dev/null || fail 7 "$program is not installed"
  done
}

# Files and folders

passes() { # PATH TEST...: whether what lies at PATH is ours and passes the tests of find, which follows no link
  [ -n "$(place=$1 && shift && find "$place" -prune -user "$user" "$@" 2>/dev/null)" ]
}

is_private() { # PATH TEST...: the same, and nobody else can reach it
  passes "$@" ! -perm -040 ! -perm -020 ! -perm -010 ! -perm -004 ! -perm -002 ! -perm -001
}

folder() { # PATH: makes it where it is missing
  mkdir "$1" 2>/dev/null || : # it exists, or another has just made it
  is_private "$1" -type d || fail 6 "$1: cannot be made, or is not a folder of ours alone"
}

find_state() { # [PATH]: sets state and queue
  state=${1:-${MNEMOSYNE_DIR-}}
  if [ -z "$state" ]; then
    above=$PWD
    until [ -e "$above/.mnemosyne" ] || [ -z "$above" ]; do above=${above%/*}; done
    state=$above/.mnemosyne
  fi
  case $state in /*) ;; *) state=./$state ;; esac # a name may begin with a dash
  while [ "$state" != "${state%/}" ]; do state=${state%/}; done # `link/` would be followed
  is_private "$state" -type d || fail 6 "$state: is no state directory of ours alone (mnemosyne serve makes one)"
  queue=$state/coordination_queue
}

# Addresses

is_id() {
  case $1 in
    *[!0-9a-f]*) return 1 ;;
    ????????) ;;
    *) return 1 ;;
  esac
}

is_name() {
  case $1 in '' | *[!A-Za-z0-9_-]*) return 1 ;; esac
  case $(printf %s "$1" | tr '[:upper:]' '[:lower:]') in default | config | tmp | all | mnemosyne) return 1 ;; esac
  [ "${#1}" -le 64 ] && ! is_id "$1"
}

find_box() { # ADDRESS: sets box, the folder of its mailbox
  if is_id "$1"; then
    box=$queue/$1
    return
  fi
  is_name "${1#@}" || fail 2 'ADDRESS is not an instance id, a name or @ROLE'
  case $1 in @*) box=role ;; *) box=name ;; esac
  box=$queue/$box-$(printf %s "${1#@}" | as_hex)
}

make_box() {
  folder "$queue"
  for part in '' /new /claimed /bell; do folder "$box$part"; done
  (: >"$box/bell/bell") 2>/dev/null || : # it is there already
}

ring() {
  touch -c -h "$box/bell/bell" 2>/dev/null || : # receivers poll as well
}

# Bytes

as_hex() { od -An -v -tx1 | tr -d ' \n'; }

as_octets() { od -An -v -to1 | sed 's/ /\\0/g' | tr -d '\n'; }

emit() { # HEX [MASK]: prints these bytes, each XORed with MASK. Builtins only: it is given keys
  left=$1 octets=
  while [ -n "$left" ]; do
    rest=${left#??}
    byte=$((0x${left%"$rest"} ^ ${2:-0}))
    octets=$octets\\0$((byte >> 6))$((byte >> 3 & 7))$((byte & 7))
    left=$rest
  done
  printf %b "$octets"
}

sha256() { openssl dgst -sha256 -r | cut -c 1-64; }

hmac() { # KEY_IN_HEX <DATA (RFC 2104). `openssl dgst -hmac` and `-macopt` would show the key to everybody in /proc
  padded=$1
  while [ "${#padded}" -lt 128 ]; do padded=${padded}00; done
  inner=$({ emit "$padded" 0x36 && cat; } | sha256)
  { emit "$padded" 0x5c && emit "$inner"; } | sha256
}

# The key

read_secret() { # sets secret, in hex
  if [ -n "$given" ]; then
    [ "${#given}" -ge 16 ] || fail 2 'MNEMOSYNE_SHARED_SECRET is shorter than 16 bytes'
    secret=$(printf %s "$given" | as_hex)
    return
  fi
  is_private "$state/secret" -type f -links 1 -size -66c || fail 6 "$state/secret: is not there, or not a key of ours alone"
  IFS= read -r secret <"$state/secret" || : # without a newline at its end it is a key as well
  case $secret in *[!0-9a-f]*) secret= ;; esac
  [ "${#secret}" -eq 64 ] || fail 6 "$state/secret: does not hold a key"
}

derive() { # sets key_id and subkey, by HKDF (RFC 5869): one HMAC to extract, one to expand
  key_id=$(emit "$secret" | sha256 | cut -c 1-8)
  subkey=$(emit "$secret" | hmac "$(printf mnemosyne/v1 | as_hex)")
  subkey=$({ printf message && printf '\001'; } | hmac "$subkey")
  [ "${#key_id}${#subkey}" = 864 ] || fail 7 'openssl does not compute SHA-256'
}

sign() { # <DATA
  { printf 'message:%s:' "$key_id" && cat; } | hmac "$subkey"
}

# JSON

compact() { # <JSON: prints it without spaces; fails where it is not JSON, or not what the fleet can carry
  awk '
    function fits(number, digits, most) {
      digits = number
      most = sub(/^-/, "", digits) ? "9223372036854775808" : "18446744073709551615"
      if (digits ~ /[.eE]/) return digits + 0 <= 1.7976931348623157e308 # what is more is infinite
      return length(digits) < length(most) || (length(digits) == length(most) && (digits "") <= (most ""))
    }
    BEGIN {
      hex = "[0-9A-Fa-f]"
      escape = "[\"\\\\/bfnrt]|u([0-9A-CEFa-cef]" hex "|[Dd][0-7])" hex hex
      escape = escape "|u[Dd][89ABab]" hex hex "\\\\u[Dd][C-Fc-f]" hex hex # half of a pair is no character
      string = "^\"([^\"\\\\\001-\037]|\\\\(" escape "))*\""
    }
    { text = text (NR > 1 ? "\n" : "") $0 }
    END {
      while (text != "") {
        if (match(text, /^[ \t\r\n]+/)) kind = ""
        else if (match(text, string)) kind = "s"
        else if (match(text, /^[][{},:]/)) kind = substr(text, 1, 1)
        else if (match(text, /^(true|false|null)/)) kind = "n"
        else if (match(text, /^-?(0|[1-9][0-9]*)([.][0-9]+)?([Ee][+-]?[0-9]+)?/)) kind = "n"
        else exit 1
        token = substr(text, 1, RLENGTH)
        text = substr(text, RLENGTH + 1)
        if (kind == "n" && token !~ /^[tfn]/ && !fits(token)) exit 1
        shape = shape kind
        if (kind != "") whole = whole token
      }
      # What is left is the shape: a key is k, a value without anything in it []. Each round takes the innermost level off.
      gsub(/s:/, "k", shape)
      gsub(/[sn]/, "[]", shape)
      for (level = 0; level < 32; level++) gsub(/[[](V(,V)*)?[]]|[{](kV(,kV)*)?[}]/, "V", shape)
      if (shape != "V") exit 1
      printf "%s", whole
    }'
}
