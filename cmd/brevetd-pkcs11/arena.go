package main

import (
	"errors"
	"syscall"
	"unsafe"
)

// An arena is the memory that the library gets to see: arguments, results and
// what they point to. It lies outside of Go's heap, so that nothing moves or
// frees it while C holds a pointer, and secrets in it can be wiped for good.
type arena struct {
	mem  []byte
	used int
}

// arenaSize is enough for the largest request: a list of maxSlots, with all that
// one attribute list takes, is below 8 KiB. It is below what any process may
// lock (RLIMIT_MEMLOCK is 64 KiB on old kernels).
const arenaSize = 32 << 10

// errArena says that a request took more than arenaSize, which the bounds of
// everything that goes in exclude.
var errArena = errors.New("the memory for the library is full")

func newArena() (*arena, error) {
	mem, err := syscall.Mmap(-1, 0, arenaSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	// Where not even this much may be locked, swap is as safe as the machine has
	// it; refusing to run would not make the library's own memory safer.
	_ = syscall.Mlock(mem)
	return &arena{mem: mem}, nil
}

// bytes returns n zero bytes, aligned for every C type.
func (a *arena) bytes(n int) []byte {
	const align = 16 // of max_align_t in the ABIs of amd64 and arm64
	start := (a.used + align - 1) / align * align
	if n < 0 || start+n > len(a.mem) {
		panic(errArena)
	}
	a.used = start + n
	return a.mem[start:a.used:a.used]
}

// copy returns the address of a copy of b, or NULL for nothing.
func (a *arena) copy(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	dst := a.bytes(len(b))
	copy(dst, b)
	return address(dst)
}

// wipe forgets everything.
func (a *arena) wipe() { a.release(0) }

// release forgets what was made since mark, a former value of used.
func (a *arena) release(mark int) {
	clear(a.mem[mark:a.used])
	a.used = mark
}

// alloc returns n values of a C type, zero. n is at least 1.
func alloc[T any](a *arena, n int) []T {
	b := a.bytes(n * int(unsafe.Sizeof(*new(T))))
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// address returns where memory of the arena begins, as C's pointers do.
func address[T any](s []T) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(s))) }
