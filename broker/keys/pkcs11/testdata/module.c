// A PKCS#11 library for tests: the one of the environment variable FAKE_REAL,
// but for one fault, that of the variable FAKE. FAKE_LOGINS is a file that gets
// a byte for each C_Login, FAKE_ONCE one that a fault makes that happens once.
// Types and indices are of OASIS PKCS#11 v2.40, appendix B (pkcs11f.h, pkcs11t.h).
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_;
typedef struct { unsigned char version[2]; void *f[68]; } list;
typedef struct { ulong_ type; void *value; ulong_ length; } attribute;
typedef struct { char label[32], manufacturer[32], model[16], serial[16]; ulong_ flags; } token_info; // its start

static list *real, fake;
static const ulong_ huge = 1UL << 40;

static int is(const char *fault) {
	const char *f = getenv("FAKE");
	return f && strcmp(f, fault) == 0;
}

static int once(void) { // 1 the first time, whatever process it is
	int fd = open(getenv("FAKE_ONCE"), O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd >= 0) close(fd);
	return fd >= 0;
}

static ulong_ get_slots(unsigned char present, ulong_ *slots, ulong_ *count) {
	ulong_ rv = ((ulong_(*)(unsigned char, ulong_ *, ulong_ *))real->f[4])(present, slots, count);
	if (is("slots huge")) *count = huge;
	if (is("slots grow") && slots) *count += 1;
	if (is("no slots")) *count = 0;
	return rv;
}

static ulong_ get_token(ulong_ slot, token_info *info) {
	ulong_ rv = ((ulong_(*)(ulong_, token_info *))real->f[6])(slot, info);
	if (is("token gone")) return 0xe0;
	if (is("token garbage")) memset(info, 0xfe, 96), info->label[3] = '\n', info->label[5] = 27;
	if (is("final try")) info->flags |= 0x20000;
	if (is("locked flag")) info->flags |= 0x40000;
	return rv;
}

static ulong_ session_info(ulong_ session, ulong_ *info) {
	ulong_ rv = ((ulong_(*)(ulong_, ulong_ *))real->f[15])(session, info);
	if (is("logged out")) info[1] = 0;
	return rv;
}

static ulong_ login(ulong_ session, ulong_ user, char *pin, ulong_ length) {
	FILE *f = getenv("FAKE_LOGINS") ? fopen(getenv("FAKE_LOGINS"), "a") : NULL;
	if (f) fputc('x', f), fclose(f);
	if (is("login locked")) return 0xa4;
	if (is("login expired")) return 0xa3;
	if (is("login without PIN")) return 0x102;
	if (is("login crash")) abort();
	if (is("noise")) {
		printf("the PIN is %.*s\n", (int)length, pin), fflush(stdout);
		fprintf(stderr, "the PIN is %.*s\n", (int)length, pin);
		write(0, pin, length);
	}
	if (is("login crash with noise")) {
		fprintf(stderr, "the PIN is %.*s\n", (int)length, pin);
		*(volatile char *)0 = 1;
	}
	return ((ulong_(*)(ulong_, ulong_, char *, ulong_))real->f[18])(session, user, pin, length);
}

static ulong_ get_attribute(ulong_ session, ulong_ object, attribute *a, ulong_ count) {
	ulong_ rv = ((ulong_(*)(ulong_, ulong_, attribute *, ulong_))real->f[24])(session, object, a, count);
	char name[32];
	snprintf(name, sizeof name, "flip 0x%lx", a->type);
	if (is(name)) *(unsigned char *)a->value ^= 1;
	snprintf(name, sizeof name, "unknown 0x%lx", a->type);
	if (is(name)) return a->length = -1, 0x12;
	snprintf(name, sizeof name, "long 0x%lx", a->type);
	if (is(name)) a->length = huge;
	snprintf(name, sizeof name, "short 0x%lx", a->type);
	if (is(name)) a->length = 1;
	return rv;
}

static ulong_ find(ulong_ session, ulong_ *objects, ulong_ max, ulong_ *count) {
	ulong_ rv = ((ulong_(*)(ulong_, ulong_ *, ulong_, ulong_ *))real->f[27])(session, objects, max, count);
	static ulong_ last;
	if (*count) last = objects[0];
	if (is("objects huge")) *count = huge;
	if (is("objects without end")) objects[0] = last, *count = 1;
	if (is("no objects")) *count = 0;
	return rv;
}

static ulong_ sign(ulong_ session, void *data, ulong_ n, unsigned char *signature, ulong_ *length) {
	ulong_ rv = ((ulong_(*)(ulong_, void *, ulong_, unsigned char *, ulong_ *))real->f[43])(session, data, n, signature, length);
	if (is("sign wrong")) signature[40] ^= 1;
	if (is("sign zero")) memset(signature, 0, *length);
	if (is("sign huge")) *length = huge;
	if (is("sign short")) *length = 63;
	if (is("sign fails")) return 0x30;
	if (is("sign fails once") && once()) return 0xb3;
	if (is("sign crash")) *(volatile char *)0 = 1;
	if (is("sign crash once") && once()) abort();
	if (is("sign hang")) for (;;) pause();
	return rv;
}

static ulong_ generate(ulong_ session, void *mechanism, attribute *public, ulong_ publics, attribute *private, ulong_ privates, ulong_ *a, ulong_ *b) {
	static int calls;
	if (is("generate fails") || (is("second generate fails") && ++calls == 2)) return 0x31;
	ulong_ rv = ((ulong_(*)(ulong_, void *, attribute *, ulong_, attribute *, ulong_, ulong_ *, ulong_ *))real->f[59])(
		session, mechanism, public, publics, private, privates, a, b);
	if (is("generate hang")) for (;;) pause();
	if (is("generate crash")) abort();
	return rv;
}

static ulong_ destroy(ulong_ session, ulong_ object) {
	if (is("destroy fails")) return 0xe2;
	return ((ulong_(*)(ulong_, ulong_))real->f[22])(session, object);
}

static ulong_ derive(ulong_ session, void *mechanism, ulong_ key, attribute *a, ulong_ n, ulong_ *out) {
	if (is("derive fails")) return 0x70;
	return ((ulong_(*)(ulong_, void *, ulong_, attribute *, ulong_, ulong_ *))real->f[62])(session, mechanism, key, a, n, out);
}

static ulong_ initialize(void *args) {
	if (is("initialize fails")) return 0x05;
	return ((ulong_(*)(void *))real->f[0])(args);
}

ulong_ C_GetFunctionList(list **out) {
	void *library = dlopen(getenv("FAKE_REAL"), RTLD_NOW);
	if (!library) return 0x05;
	((ulong_(*)(list **))dlsym(library, "C_GetFunctionList"))(&real);
	fake = *real;
	fake.f[0] = initialize, fake.f[4] = get_slots, fake.f[6] = get_token, fake.f[15] = session_info;
	fake.f[18] = login, fake.f[22] = destroy, fake.f[24] = get_attribute, fake.f[27] = find;
	fake.f[43] = sign, fake.f[59] = generate, fake.f[62] = derive;
	if (is("version")) fake.version[0] = 9;
	if (is("no C_Login")) fake.f[18] = NULL;
	*out = is("no list") ? NULL : &fake;
	return is("list fails") ? 0x02 : 0;
}
