#!/bin/bash
# Makes the corpus: what real tools print of the values in secrets.json, one file
# a tool. Run it where all of the tools are; the test needs none of them.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf corpus && mkdir corpus
names=(TOKEN PASSWORD KEY UNICODE SHORT)
for n in "${names[@]}"; do
	printf -v "$n" '%s' "$(jq -r ".$n" secrets.json)"
	export "${n?}"
done
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
for n in "${names[@]}"; do
	printf '%s' "${!n}" >"$files/$n"
	printf 'robot:%s' "${!n}" >"$files/basic$n"
	{ printf 'some text before, '; cat "$files/$n"; printf ', and some after it\n'; } >"$files/text$n"
done

# each COMMAND…: the command, once for each file that has a value in it.
each() {
	for f in "$files"/*; do
		echo "== ${*/\{\}/FILE} =="
		"${@/\{\}/$f}" 2>&1 | sed "s#$files/##g" || true
		echo
	done
}
tool() { # tool NAME: what is printed is that tool's
	exec >"corpus/$1.txt"
}

tool xxd
each xxd {}
each xxd -u -c 24 {}
each xxd -g 4 {}
each xxd -g 1 {}
each xxd -p {}
each xxd -i {}

tool od
for t in x1 x2 x4 x8 x1z o1 c; do each od -t "$t" {}; done
each od {}
each od -c {}
each od -b {}
each od -An -tx1 {}
each od -A x -t x1z -v {}

tool hexdump
each hexdump {}
each hexdump -C {}
each hexdump -c {}
each hexdump -b {}
each hexdump -v -e '/1 "%02X "' {}

tool base64
each base64 {}
each base64 -w 0 {}
each basenc --base64url {}
each basenc --base16 {}
each openssl base64 -in {}
each openssl base64 -A -in {}
each bash -c 'base64 -w 0 "$0" | base64' {}
each bash -c 'iconv -f utf-8 -t utf-16le "$0" | base64 -w 0' {}
each bash -c 'jq -Rs . "$0" | base64' {}
each bash -c 'while IFS= read -r l || [ -n "$l" ]; do echo "$l" | base64; done <"$0"' {}
each bash -c 'xxd -p "$0" | base64' {}

tool text
each cat {}
each cat -n {}
each cat -A {}
each sed -n l {}
each fold -w 20 {}
each nl -ba {}
each pr -t -o 8 {}
each grep --color=always -E '[0-9]|s' {}
each bash -c 'tr "\n" "\r" <"$0"' {}
each iconv -f utf-8 -t utf-16le {}
each iconv -f utf-8 -t utf-16be {}
each diff /dev/null {} || true

tool jq
each jq -Rs . {}
each jq -Rs -a . {}
each jq -Rs '{value: .}' {}
each jq -Rs '{value: .} | tojson' {}
each jq -Rs '{value: ({value: .} | tojson)} | tojson' {}
each jq -CRs '{value: .}' {}
for f in uri html sh base64 csv text json; do each jq -Rrs "[.] | if \"$f\" == \"csv\" or \"$f\" == \"sh\" then . else .[0] end | @$f" {}; done
each jq -Rrs '@base64 | @uri' {}
each jq -Rrs '@uri | @base64' {}
each jq -Rrs '@json | @base64' {}
each jq -Rrs '@html | @json' {}
each jq -Rrs '@json | @html' {}
each jq -Rrs '@json | @uri' {}

tool shell
# With an environment of nothing else: the corpus says nothing of the machine.
env -i TOKEN="$TOKEN" PASSWORD="$PASSWORD" KEY="$KEY" UNICODE="$UNICODE" SHORT="$SHORT" env
for n in "${names[@]}"; do
	printenv "$n"
	declare -p "$n"
	printf '%q\n' "${!n}"
	echo "${!n@Q} ${!n@A} ${!n@E}"
	bash -xc 'true "$1"; x=$1; [[ $x == y ]] || curl() { :; }; curl -H "Authorization: Bearer $1"' sh "${!n}" 2>&1
	dash -xc 'true "$1"; x=$1; : "pw=$x"' sh "${!n}" 2>&1
	env -i bash -c 'export V=$1; export -p | grep -A9 "x V="; set | grep -A9 ^V=' sh "${!n}" || true
	bash -c "trap 'echo failed: \$BASH_COMMAND' ERR; false \"\$1\"" sh "${!n}" || true
done

tool python3
python3 - <<'END'
import os, json, html, shlex, pprint, base64, urllib.parse, binascii, logging, sys, quopri
from xml.sax.saxutils import escape, quoteattr
from email.message import EmailMessage
logging.basicConfig(stream=sys.stdout)
for n in ["TOKEN", "PASSWORD", "KEY", "UNICODE", "SHORT"]:
    v = os.environ[n]; b = v.encode()
    print("==", n, "==")
    print(repr(v)); print(ascii(v)); print(b); print([v]); print({"env": {n: v}}); pprint.pprint({"env": {n: v}})
    print(json.dumps(v)); print(json.dumps({"v": json.dumps({"v": v})}, indent=1)); print(json.dumps(v, ensure_ascii=False))
    print(urllib.parse.quote(v)); print(urllib.parse.quote(v, safe="")); print(urllib.parse.quote_plus(v)); print(urllib.parse.urlencode({"q": v}))
    print(urllib.parse.quote(urllib.parse.quote(v)))
    print(html.escape(v)); print(escape(v)); print(quoteattr(v)); print(v.encode("ascii", "xmlcharrefreplace"))
    print(shlex.quote(v)); print(v.encode("unicode_escape")); print(v.encode("utf-16le")); print(b.hex()); print(b.hex(" ")); print(b.hex(":", 2))
    print(binascii.hexlify(b)); print(base64.encodebytes(b).decode()); print(base64.urlsafe_b64encode(b"x:" + b)); print(repr(repr(b)))
    logging.warning("the value is %r", v)
    try: open("/nonexistent/" + v)
    except OSError as e: print(e)
END

tool node
node - <<'END'
const util = require('util')
for (const n of ['TOKEN', 'PASSWORD', 'KEY', 'UNICODE', 'SHORT']) {
  const v = process.env[n], b = Buffer.from(v)
  console.log('==', n, '==')
  console.log(v); console.log([v]); console.log({env: {[n]: v}}); console.log(util.inspect(v, {colors: true}))
  console.log(JSON.stringify(v)); console.log(JSON.stringify({v: JSON.stringify({v})})); console.log(b.length > 50 ? b.length : b); console.log(b.toString('hex'))
  console.log(encodeURIComponent(v)); console.log(encodeURI(v)); console.log(String(new URLSearchParams({q: v}))); console.log(new URL('http://u:' + encodeURIComponent(v) + '@h/'))
  console.log(b.toString('base64')); console.log(b.toString('base64url')); console.log(Buffer.from(v, 'utf16le').toString('base64'))
  console.log([...v].map(c => '\x1b[32m' + c + '\x1b[0m').join('')); console.log(String.raw({raw: [v]})); try { JSON.parse(v) } catch (e) { console.log(e.message.length) }
}
END

tool go
mkdir "$files/go"
cat >"$files/go/main.go" <<'END'
package main

import ("encoding/hex"; "encoding/json"; "encoding/xml"; "fmt"; "html"; "log/slog"; "net/url"; "os"; "strconv")

func main() {
	for _, n := range []string{"TOKEN", "PASSWORD", "KEY", "UNICODE", "SHORT"} {
		v := os.Getenv(n)
		fmt.Println("==", n, "==")
		fmt.Printf("%s\n%q\n%+q\n%x\n%X\n% x\n% X\n%#x\n%# x\n%v\n%#v\n%#v\n", v, v, v, v, v, v, v, v, v, struct{ V string }{v}, struct{ V string }{v}, []byte(v))
		j, _ := json.Marshal(map[string]any{"v": v}); fmt.Println(string(j))
		j, _ = json.Marshal(string(j)); fmt.Println(string(j))
		x, _ := xml.Marshal(v); fmt.Println(string(x))
		fmt.Println(html.EscapeString(v), url.QueryEscape(v), url.PathEscape(v), url.UserPassword("u", v), strconv.QuoteToASCII(v))
		fmt.Print(hex.Dump([]byte("before it " + v + " after it")))
		slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { if a.Key == "time" { return slog.Attr{} }; return a }})).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { if a.Key == "time" { return slog.Attr{} }; return a }})).Info("json", "v", v)
	}
}
END
go run "$files/go/main.go"

tool perl
perl -MData::Dumper -MMIME::Base64 -e '
$Data::Dumper::Useqq = 1;
for my $n (qw(TOKEN PASSWORD KEY UNICODE SHORT)) { my $v = $ENV{$n};
  print "== $n ==\n", Dumper({v => $v}), unpack("H*", $v), "\n", encode_base64("u:$v"), quotemeta($v), "\n"; $Data::Dumper::Useqq ^= 1; print Dumper($v); }'

tool curl
python3 - "$files/port" <<'END' &
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(401); self.send_header("WWW-Authenticate", "Basic realm=x"); self.send_header("Content-Length", "0"); self.end_headers()
    do_POST = do_GET
    def log_message(self, *a): pass
s = http.server.HTTPServer(("127.0.0.1", 0), H)
open(sys.argv[1], "w").write(str(s.server_port))
s.serve_forever()
END
server=$!
until [ -s "$files/port" ]; do :; done
url="http://127.0.0.1:$(cat "$files/port")"
plain() { sed -E "s#127.0.0.1(:| port )[0-9]+#127.0.0.1\1PORT#g; s#port [0-9]+#port PORT#g; s#^(< |<= )?Date: .*#\1Date: …#; s#^(< )?(Server: ).*#\1\2…#; s#^[0-9]{2}:[0-9]{2}:[0-9.]+ ##"; }
for n in TOKEN PASSWORD UNICODE SHORT; do
	curl -sv -u "robot:${!n}" "$url/" 2>&1 | plain
	curl -sv -G --data-urlencode "q=${!n}" -H "Authorization: Bearer ${!n}" "$url/" 2>&1 | plain
	curl -s --trace - -d "{\"v\": \"${!n}\"}" "$url/" | plain
	curl -s --trace-ascii - -u "robot:${!n}" "$url/" | plain
done

tool git
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_TERMINAL_PROMPT=0
for n in TOKEN SHORT; do
	GIT_TRACE_CURL=1 GIT_TRACE=1 GIT_TRACE_REDACT=0 git ls-remote "http://robot:${!n}@127.0.0.1:$(cat "$files/port")/x.git" 2>&1 | plain || true
	git init -q "$files/$n.git" && git -C "$files/$n.git" config http.extraHeader "AUTHORIZATION: basic $(printf 'x-access-token:%s' "${!n}" | base64 -w 0)"
	git -C "$files/$n.git" config --list | grep -i header
done
kill $server

tool strace
for n in "${names[@]}"; do
	strace -qq -s 4096 -e trace=write -o "$files/trace" printf '%s\n' "${!n}" >/dev/null; cat "$files/trace"
	strace -qq -x -s 4096 -e trace=write -o "$files/trace" printf '%s\n' "${!n}" >/dev/null; cat "$files/trace"
	strace -qq -xx -s 4096 -e trace=write -o "$files/trace" printf '%s\n' "${!n}" >/dev/null; cat "$files/trace"
	strace -qq -e trace=write -e write=1 -o "$files/trace" printf '%s\n' "${!n}" >/dev/null; cat "$files/trace"
done

tool tar
tar --sort=name --owner=0 --group=0 --mtime=@0 -C "$files" -c "${names[@]}"

tool openssl

for n in TOKEN SHORT; do
	openssl asn1parse -genstr "UTF8:${!n}" -out "$files/der" -noout; openssl asn1parse -inform DER -in "$files/der" -dump; xxd "$files/der"
	openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -subj "/CN=${!n}" -text 2>/dev/null | head -4
done
exec >&2
ls corpus
