package main

import (
	"reflect"
	"testing"
	"unsafe"
)

// The sizes and offsets that a C compiler gives the structs of OASIS PKCS#11
// Base Specification v2.40, sections 3.1 (CK_VERSION), 3.2 (CK_TOKEN_INFO), 3.3
// (CK_SESSION_INFO), 3.4 (CK_ATTRIBUTE), 3.5 (CK_MECHANISM) and 3.6
// (CK_FUNCTION_LIST), and Current Mechanisms v2.40, section 2.3.8
// (CK_ECDH1_DERIVE_PARAMS), where a long and a pointer have 8 bytes (the ABIs of
// Linux on amd64 and arm64). They were compared with what gcc 12 prints for the
// pkcs11.h of p11-kit 0.24.
func TestLayout(t *testing.T) {
	var (
		attribute ckAttribute
		mechanism ckMechanism
		ecdh1     ckECDH1DeriveParams
		token     ckTokenInfo
		session   ckSessionInfo
		functions ckFunctionList
	)
	for name, c := range map[string]struct{ got, want uintptr }{
		"CK_ULONG":                             {unsafe.Sizeof(ulong(0)), 8},
		"CK_VERSION":                           {unsafe.Sizeof(ckVersion{}), 2},
		"CK_ATTRIBUTE":                         {unsafe.Sizeof(attribute), 24},
		"CK_ATTRIBUTE.pValue":                  {unsafe.Offsetof(attribute.value), 8},
		"CK_ATTRIBUTE.ulValueLen":              {unsafe.Offsetof(attribute.length), 16},
		"CK_MECHANISM":                         {unsafe.Sizeof(mechanism), 24},
		"CK_MECHANISM.pParameter":              {unsafe.Offsetof(mechanism.parameter), 8},
		"CK_MECHANISM.ulParameterLen":          {unsafe.Offsetof(mechanism.length), 16},
		"CK_ECDH1_DERIVE_PARAMS":               {unsafe.Sizeof(ecdh1), 40},
		"CK_ECDH1_DERIVE_PARAMS.ulSharedData":  {unsafe.Offsetof(ecdh1.sharedDataLen), 8},
		"CK_ECDH1_DERIVE_PARAMS.pSharedData":   {unsafe.Offsetof(ecdh1.sharedData), 16},
		"CK_ECDH1_DERIVE_PARAMS.ulPublicData":  {unsafe.Offsetof(ecdh1.publicDataLen), 24},
		"CK_ECDH1_DERIVE_PARAMS.pPublicData":   {unsafe.Offsetof(ecdh1.publicData), 32},
		"CK_TOKEN_INFO":                        {unsafe.Sizeof(token), 208},
		"CK_TOKEN_INFO.manufacturerID":         {unsafe.Offsetof(token.manufacturerID), 32},
		"CK_TOKEN_INFO.model":                  {unsafe.Offsetof(token.model), 64},
		"CK_TOKEN_INFO.serialNumber":           {unsafe.Offsetof(token.serialNumber), 80},
		"CK_TOKEN_INFO.flags":                  {unsafe.Offsetof(token.flags), 96},
		"CK_TOKEN_INFO.ulMaxSessionCount":      {unsafe.Offsetof(token.counts), 104},
		"CK_TOKEN_INFO.hardwareVersion":        {unsafe.Offsetof(token.hardware), 184},
		"CK_TOKEN_INFO.firmwareVersion":        {unsafe.Offsetof(token.firmware), 186},
		"CK_TOKEN_INFO.utcTime":                {unsafe.Offsetof(token.utcTime), 188},
		"CK_SESSION_INFO":                      {unsafe.Sizeof(session), 32},
		"CK_SESSION_INFO.slotID":               {unsafe.Offsetof(session.slotID), 0},
		"CK_SESSION_INFO.state":                {unsafe.Offsetof(session.state), 8},
		"CK_SESSION_INFO.flags":                {unsafe.Offsetof(session.flags), 16},
		"CK_SESSION_INFO.ulDeviceError":        {unsafe.Offsetof(session.deviceError), 24},
		"CK_FUNCTION_LIST":                     {unsafe.Sizeof(functions), 552},
		"CK_FUNCTION_LIST.C_Initialize":        {offset(cInitialize), 8},
		"CK_FUNCTION_LIST.C_Finalize":          {offset(cFinalize), 16},
		"CK_FUNCTION_LIST.C_GetSlotList":       {offset(cGetSlotList), 40},
		"CK_FUNCTION_LIST.C_GetTokenInfo":      {offset(cGetTokenInfo), 56},
		"CK_FUNCTION_LIST.C_OpenSession":       {offset(cOpenSession), 104},
		"CK_FUNCTION_LIST.C_GetSessionInfo":    {offset(cGetSessionInfo), 128},
		"CK_FUNCTION_LIST.C_Login":             {offset(cLogin), 152},
		"CK_FUNCTION_LIST.C_DestroyObject":     {offset(cDestroyObject), 184},
		"CK_FUNCTION_LIST.C_GetAttributeValue": {offset(cGetAttributeValue), 200},
		"CK_FUNCTION_LIST.C_FindObjectsInit":   {offset(cFindObjectsInit), 216},
		"CK_FUNCTION_LIST.C_FindObjects":       {offset(cFindObjects), 224},
		"CK_FUNCTION_LIST.C_FindObjectsFinal":  {offset(cFindObjectsFinal), 232},
		"CK_FUNCTION_LIST.C_SignInit":          {offset(cSignInit), 344},
		"CK_FUNCTION_LIST.C_Sign":              {offset(cSign), 352},
		"CK_FUNCTION_LIST.C_GenerateKeyPair":   {offset(cGenerateKeyPair), 480},
		"CK_FUNCTION_LIST.C_DeriveKey":         {offset(cDeriveKey), 504},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	for f := range functionNames {
		if f < 0 || int(f) >= reflect.TypeOf(functions.functions).Len() {
			t.Errorf("%s is outside of the list", functionNames[f])
		}
	}
}

func offset(f function) uintptr {
	return unsafe.Offsetof(ckFunctionList{}.functions) + uintptr(f)*unsafe.Sizeof(uintptr(0))
}
