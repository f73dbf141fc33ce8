/* Templates of the formats that models were trained with, for models whose directory has none. */
#include "text/chat.h"

/* What all of them ask: messages of text, of the three usual roles. */
#define ROLES                                                                                                          \
    "{% for m in messages %}"                                                                                          \
    "{% if m.role not in ['system', 'user', 'assistant'] %}"                                                           \
    "{{ raise_exception('message ' ~ loop.index0 ~ ' has the role \"' ~ m.role ~ '\"; known are system, user and "     \
    "assistant') }}"                                                                                                   \
    "{% endif %}"                                                                                                      \
    "{% if m.content is not string %}{{ raise_exception('message ' ~ loop.index0 ~ ' has a content that is no text') " \
    "}}{% endif %}"                                                                                                    \
    "{% endfor %}"
/* system: the text of a system message that comes first, or none; turns: the other messages. */
#define SYSTEM                                                                                                         \
    ROLES "{% set system = messages[0].content if messages[0].role == 'system' else none %}"                           \
          "{% set turns = messages if system is none else messages[1:] %}"
#define ALTERNATE                                                                                                      \
    SYSTEM                                                                                                             \
    "{% if not turns %}{{ raise_exception('this template needs a message of the user') }}{% endif %}"                  \
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 is even) %}"                                         \
    "{{ raise_exception('user and assistant take turns in this template, user first') }}{% endif %}{% endfor %}"

#define CHATML_END "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define CHATML                                                                                                         \
    ROLES "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor "         \
          "%}" CHATML_END

/* What the assistant thought is kept only after the last question; before it, only the answer is. */
#define QWEN3                                                                                                          \
    ROLES "{% set ns = namespace(question=messages | length - 1) %}"                                                   \
          "{% for m in messages %}{% if m.role == 'user' %}{% set ns.question = loop.index0 %}{% endif %}{% endfor %}" \
          "{% for m in messages %}{% set answer = m.content %}{% set thought = '' %}"                                  \
          "{% if m.role == 'assistant' %}"                                                                             \
          "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"                              \
          "{% elif '</think>' in m.content %}"                                                                         \
          "{% set thought = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"          \
          "{% set answer = m.content.split('</think>')[-1].lstrip('\n') %}{% endif %}"                                 \
          "{% if loop.index0 > ns.question and (loop.last or thought) %}"                                              \
          "{% set answer = '<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' ~ answer.lstrip('\n') %}{% endif %}"   \
          "{% endif %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ answer ~ '<|im_end|>\n' }}{% endfor %}" CHATML_END           \
          "{% if add_generation_prompt and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"

#define LLAMA3_HEADER(role) "{{ '<|start_header_id|>' ~ " role " ~ '<|end_header_id|>\n\n' }}"
#define LLAMA3_TURNS(list)                                                                                             \
    "{% for m in " list                                                                                                \
    " %}" LLAMA3_HEADER("m.role") "{{ m.content | trim ~ '<|eot_id|>' }}{% endfor %}"                                  \
                                  "{% if add_generation_prompt %}" LLAMA3_HEADER("'assistant'") "{% endif %}"
#define LLAMA31                                                                                                        \
    SYSTEM "{{ bos_token }}" LLAMA3_HEADER("'system'") "{{ 'Cutting Knowledge Date: December 2023\nToday Date: ' ~ "   \
                                                       "(date_string or '26 Jul 2024') ~ '\n\n' }}"                    \
                                                       "{{ (system or '') | trim }}{{ '<|eot_id|>' }}" LLAMA3_TURNS(   \
                                                           "turns")

#define LLAMA2                                                                                                         \
    ALTERNATE "{% for m in turns %}{% set text = m.content %}"                                                         \
              "{% if loop.first and system is not none %}"                                                             \
              "{% set text = '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' ~ text %}{% endif %}"                             \
              "{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ text | trim ~ ' [/INST]' }}"                        \
              "{% else %}{{ ' ' ~ text | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"

/* The four spellings of Mistral differ in spaces and in which question the system message goes before. */
#define MISTRAL(open, close, answer, content, place)                                                                   \
    ALTERNATE "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}{{ '" open "' }}"                           \
              "{% if " place " and system is not none %}{{ system ~ '\n\n' }}{% endif %}{{ m.content ~ '" close "' }}" \
              "{% else %}{{ '" answer "' ~ " content " ~ eos_token }}{% endif %}{% endfor %}"

#define GEMMA                                                                                                          \
    ALTERNATE "{{ bos_token }}{% for m in turns %}"                                                                    \
              "{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else 'user') ~ '\n' }}"                        \
              "{% if loop.first and system is not none %}{{ system ~ '\n\n' }}{% endif %}"                             \
              "{{ m.content | trim ~ '<end_of_turn>\n' }}{% endfor %}"                                                 \
              "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"

#define PHI3                                                                                                           \
    ROLES "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"                  \
          "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
#define ZEPHYR                                                                                                         \
    ROLES "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}"             \
          "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"

const cllm_chat_named cllm_chat_templates[] = {
    {"chatml", "", "<|im_end|>", CHATML},
    {"gemma", "<bos>", "<eos>", GEMMA},
    {"llama2", "<s>", "</s>", LLAMA2},
    {"llama3", "<|begin_of_text|>", "<|eot_id|>", ROLES "{{ bos_token }}" LLAMA3_TURNS("messages")},
    {"llama3.1", "<|begin_of_text|>", "<|eot_id|>", LLAMA31},
    {"mistral", "<s>", "</s>", MISTRAL("[INST] ", " [/INST]", "", "m.content", "loop.first")},
    {"mistral-v1", "<s>", "</s>", MISTRAL(" [INST] ", " [/INST]", " ", "m.content", "loop.first")},
    {"mistral-v3", "<s>", "</s>", MISTRAL("[INST] ", "[/INST]", " ", "m.content | trim", "loop.last")},
    {"mistral-tekken", "<s>", "</s>", MISTRAL("[INST]", "[/INST]", "", "m.content", "loop.last")},
    {"phi3", "", "<|endoftext|>", PHI3},
    {"qwen3", "", "<|im_end|>", QWEN3},
    {"zephyr", "", "</s>", ZEPHYR},
    {NULL, NULL, NULL, NULL},
};
