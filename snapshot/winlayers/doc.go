// Package winlayers unpacks and packs layers of Windows images on other systems.
//
// Such a layer has the files of the tree below "Files/", and beside them the registry ("Hives/") and what else only Windows
// can use. Each entry says in PAX records what Windows would know of the file: its attributes, its time of creation and who may do
// what with it. What is packed here gets the records of an ordinary file or directory that everybody may read; the files have the
// owners and modes that they have here, too.
//
// A context tells of which kind a layer is ([WithLayerMode]), since an applier or differ is asked for layers of both. On Windows
// itself layers are what the system makes of them, and the context changes nothing.
package winlayers
