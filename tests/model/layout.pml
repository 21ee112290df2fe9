/* SPDX-License-Identifier: MIT */
/*
 * Two pages; LAYOUT places them in the log: 1 in one word of marks, 2 in two
 * groups of one section, 3 in two sections. A range of pages is a mask.
 */
#define ALL 3
#if LAYOUT == 1
#define GROUPS 1
#define SECTIONS 1
#define PAGES_OF(group) ALL
#define GROUPS_OF(section) 1
#define SECTION_OF(group) 0
#elif LAYOUT == 2
#define GROUPS 2
#define SECTIONS 1
#define PAGES_OF(group) (1 << (group))
#define GROUPS_OF(section) 3
#define SECTION_OF(group) 0
#elif LAYOUT == 3
#define GROUPS 2
#define SECTIONS 2
#define PAGES_OF(group) (1 << (group))
#define GROUPS_OF(section) (1 << (section))
#define SECTION_OF(group) (group)
#endif
