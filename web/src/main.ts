import { mount } from "svelte";
import Page from "./Page.svelte";
import "./page.css";
import { SocketConnector } from "./connect/socket";

mount(Page, { target: document.getElementById("app")!, props: { connector: new SocketConnector() } });
