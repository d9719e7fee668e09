package main

// This file is the part of pkcs11.h that is needed (OASIS PKCS#11 Cryptographic
// Token Interface Base Specification v2.40, and Current Mechanisms v2.40). On
// Unix the structs are laid out as C does, without packing; layout_test.go holds
// their sizes and offsets.

// A ulong is CK_ULONG, an unsigned long of C: as wide as Go's uint on Linux,
// 8 bytes on amd64 and arm64. Pointers are uintptr: what they point to lies in
// the arena, which Go does not move.
type ulong = uint

// unavailable is CK_UNAVAILABLE_INFORMATION: the value of this length cannot be
// told.
const unavailable = ^ulong(0)

type (
	ckVersion struct{ major, minor byte }

	ckAttribute struct {
		typ    ulong
		value  uintptr
		length ulong
	}

	ckMechanism struct {
		mechanism ulong
		parameter uintptr
		length    ulong
	}

	ckECDH1DeriveParams struct {
		kdf           ulong
		sharedDataLen ulong
		sharedData    uintptr
		publicDataLen ulong
		publicData    uintptr
	}

	ckTokenInfo struct {
		label          [32]byte // these four padded with blanks, not ended by 0
		manufacturerID [32]byte
		model          [16]byte
		serialNumber   [16]byte
		flags          ulong
		counts         [10]ulong // of sessions, PIN lengths, and memory
		hardware       ckVersion
		firmware       ckVersion
		utcTime        [16]byte
	}

	ckSessionInfo struct {
		slotID, state, flags, deviceError ulong
	}

	// ckFunctionList is CK_FUNCTION_LIST: of version 2.x as well as of the list
	// that C_GetFunctionList returns in version 3.x.
	ckFunctionList struct {
		version   ckVersion
		functions [68]uintptr
	}
)

// A function is an index into ckFunctionList.functions.
type function int

const (
	cInitialize        function = 0
	cFinalize          function = 1
	cGetSlotList       function = 4
	cGetTokenInfo      function = 6
	cOpenSession       function = 12
	cGetSessionInfo    function = 15
	cLogin             function = 18
	cDestroyObject     function = 22
	cGetAttributeValue function = 24
	cFindObjectsInit   function = 26
	cFindObjects       function = 27
	cFindObjectsFinal  function = 28
	cSignInit          function = 42
	cSign              function = 43
	cGenerateKeyPair   function = 59
	cDeriveKey         function = 62
)

var functionNames = map[function]string{
	cInitialize: "C_Initialize", cFinalize: "C_Finalize", cGetSlotList: "C_GetSlotList",
	cGetTokenInfo: "C_GetTokenInfo", cOpenSession: "C_OpenSession", cGetSessionInfo: "C_GetSessionInfo",
	cLogin: "C_Login", cDestroyObject: "C_DestroyObject", cGetAttributeValue: "C_GetAttributeValue",
	cFindObjectsInit: "C_FindObjectsInit", cFindObjects: "C_FindObjects", cFindObjectsFinal: "C_FindObjectsFinal",
	cSignInit: "C_SignInit", cSign: "C_Sign", cGenerateKeyPair: "C_GenerateKeyPair", cDeriveKey: "C_DeriveKey",
}

// Return values, CKR_…
const (
	ckrOK                   = 0x000
	ckrAttributeSensitive   = 0x011
	ckrAttributeTypeInvalid = 0x012
	ckrFunctionNotSupported = 0x054
	ckrTokenNotPresent      = 0x0e0
	ckrTokenNotRecognized   = 0x0e1
	ckrUserAlreadyLoggedIn  = 0x100
	ckrUserNotLoggedIn      = 0x101
)

// Attributes, CKA_…
const (
	ckaClass            = 0x000
	ckaToken            = 0x001
	ckaPrivate          = 0x002
	ckaLabel            = 0x003
	ckaValue            = 0x011
	ckaKeyType          = 0x100
	ckaID               = 0x102
	ckaSensitive        = 0x103
	ckaDecrypt          = 0x105
	ckaUnwrap           = 0x107
	ckaSign             = 0x108
	ckaVerify           = 0x10a
	ckaDerive           = 0x10c
	ckaValueLen         = 0x161
	ckaExtractable      = 0x162
	ckaLocal            = 0x163
	ckaNeverExtractable = 0x164
	ckaAlwaysSensitive  = 0x165
	ckaECParams         = 0x180
	ckaECPoint          = 0x181
)

const (
	ckoPublicKey  = 2 // CKA_CLASS
	ckoPrivateKey = 3
	ckoSecretKey  = 4

	ckkEC            = 0x03 // CKA_KEY_TYPE
	ckkGenericSecret = 0x10

	ckmECKeyPairGen = 0x1040 // mechanisms
	ckmECDSA        = 0x1041
	ckmECDH1Derive  = 0x1050
	ckdNull         = 1 // no key derivation function: the x-coordinate itself

	ckuUser = 1

	ckfTokenInitialized = 0x00000400 // CK_TOKEN_INFO
	ckfUserPINFinalTry  = 0x00020000
	ckfUserPINLocked    = 0x00040000

	ckfRWSession     = 2 // C_OpenSession
	ckfSerialSession = 4

	cksROUserFunctions = 1 // CK_SESSION_INFO.state
	cksRWUserFunctions = 3
)
