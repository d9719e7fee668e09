package main

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// A module is a vendor's library, loaded and initialised. It stays so until the
// process ends.
type module struct {
	functions [68]uintptr
	memory    *arena
}

// load loads a library and starts it.
func load(path string, memory *arena) (*module, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, moduleError("%s is not an absolute path, and a library is not searched for", path)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, moduleError("%v", err)
	}
	getFunctionList, err := purego.Dlsym(handle, "C_GetFunctionList")
	if err != nil {
		return nil, moduleError("%s has no C_GetFunctionList: it is not a PKCS#11 library", path)
	}
	m := &module{memory: memory}
	if err := m.list(getFunctionList); err != nil {
		return nil, err
	}
	// NULL: this process calls from one thread at a time (section 5.4).
	return m, m.call(cInitialize, 0)
}

// list fills in the functions.
func (m *module) list(getFunctionList uintptr) error {
	list := alloc[*ckFunctionList](m.memory, 1)
	rv, _, _ := purego.SyscallN(getFunctionList, address(list))
	if rv != ckrOK {
		return &wire.Error{Kind: wire.KindReturn, Call: "C_GetFunctionList", Code: uint64(rv)}
	}
	l := list[0]
	if l == nil {
		return moduleError("C_GetFunctionList gave no list")
	}
	if l.version.major != 2 && l.version.major != 3 {
		return moduleError("the library is of PKCS#11 version %d.%d; this program knows 2 and 3", l.version.major, l.version.minor)
	}
	m.functions = l.functions
	return nil
}

// call calls a function of the library. Arguments that are addresses are of the
// arena.
func (m *module) call(f function, args ...uintptr) error {
	fn := m.functions[f]
	rv := uintptr(ckrFunctionNotSupported)
	if fn != 0 {
		rv, _, _ = purego.SyscallN(fn, args...)
	}
	if rv == ckrOK {
		return nil
	}
	return &wire.Error{Kind: wire.KindReturn, Call: functionNames[f], Code: uint64(rv)}
}

// attributes builds an array of CK_ATTRIBUTE.
func (m *module) attributes(list []attribute) (first, count uintptr) {
	cs := alloc[ckAttribute](m.memory, len(list))
	for i, a := range list {
		cs[i] = ckAttribute{typ: a.typ, value: m.memory.copy(a.value), length: ulong(len(a.value))}
	}
	return address(cs), uintptr(len(cs))
}

// mechanism builds a CK_MECHANISM. parameter is an address, or 0 for none.
func (m *module) mechanism(typ ulong, parameter, length uintptr) uintptr {
	c := alloc[ckMechanism](m.memory, 1)
	c[0] = ckMechanism{typ, parameter, ulong(length)}
	return address(c)
}

// An attribute is one of an object, its value as C has it.
type attribute struct {
	typ   ulong
	value []byte
}

func flag(typ ulong, on bool) attribute {
	if on {
		return attribute{typ, []byte{1}} // CK_TRUE
	}
	return attribute{typ, []byte{0}}
}

func number(typ, value ulong) attribute {
	b := make([]byte, unsafe.Sizeof(value))
	*(*ulong)(unsafe.Pointer(unsafe.SliceData(b))) = value
	return attribute{typ, b}
}

func text(typ ulong, value string) attribute { return attribute{typ, []byte(value)} }

func moduleError(format string, args ...any) error {
	return &wire.Error{Kind: wire.KindModule, Text: printable(fmt.Sprintf(format, args...))}
}

// maxText bounds what is told of what the library says, in bytes.
const maxText = 512

// printable returns s without what could write over a terminal or a log line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}
